//! Self-attention of one layer.

use mdt_plugin_api::{Cache, ModelContext, Result, Tensor};

use crate::config::Architecture;

/// Rotary positions of one forward pass, on the device.
pub struct Rotation<'a> {
    /// Radians per position, `[head_dim / 2]`.
    pub inverse_frequencies: Tensor,
    /// Position of each token `[B, T]`; `offset..offset + T` when absent.
    pub positions: Option<&'a Tensor>,
    /// The position of the first token when none are given.
    pub offset: usize,
    /// What sine and cosine are multiplied by.
    pub scale: f64,
}

/// Causal attention of `x` `[B, T, hidden]` to itself and to what the cache holds.
pub fn attention(
    architecture: &Architecture,
    ctx: &ModelContext,
    layer: usize,
    x: &Tensor,
    rotation: &Rotation<'_>,
    cache: Option<&mut Cache>,
) -> Result<Tensor> {
    let Architecture { heads, key_value_heads, head_dim, .. } = *architecture;
    let prefix = format!("model.layers.{layer}.self_attn");
    // [B, T, heads · D] → [B, heads, T, D]; -1 is T.
    let batch = x.shape()?[0] as i64;
    let project = |name: &str, heads: usize| -> Result<Tensor> {
        ctx.linear(&format!("{prefix}.{name}"), x)?.reshape(&[batch, -1, heads as i64, head_dim as i64])
    };
    let rotated = |projection: &str, norm: &str, heads: usize| -> Result<Tensor> {
        let mut projected = project(projection, heads)?;
        if architecture.query_key_norm {
            projected = ctx.rms_norm(&format!("{prefix}.{norm}"), &projected, architecture.rms_norm_eps)?;
        }
        let Rotation { inverse_frequencies, positions, offset, scale } = rotation;
        ctx.rope(&projected.transpose(&[0, 2, 1, 3])?, inverse_frequencies, *positions, *offset, *scale)
    };
    let queries = rotated("q_proj", "q_norm", heads)?;
    let keys = rotated("k_proj", "k_norm", key_value_heads)?;
    let values = project("v_proj", key_value_heads)?.transpose(&[0, 2, 1, 3])?;

    let scale = 1.0 / (head_dim as f64).sqrt();
    let attended = match cache {
        Some(cache) => {
            let (keys, values) = cache.append(layer, keys, values)?;
            ctx.attention(&queries, keys, values, scale)?
        }
        None => ctx.attention(&queries, &keys, &values, scale)?,
    };
    let joined = attended.transpose(&[0, 2, 1, 3])?.reshape(&[batch, -1, (heads * head_dim) as i64])?;
    ctx.linear(&format!("{prefix}.o_proj"), &joined)
}
