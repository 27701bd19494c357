//! Self-attention of one layer.

use mdt_plugin_api::{Attention, ModelContext, Result, Tensor};

use crate::config::Architecture;

/// Rotary positions of one forward pass.
pub struct Rotation<'a> {
    /// Radians per position, `[head_dim / 2]`.
    pub inverse_frequencies: &'a Tensor,
    /// What sine and cosine are multiplied by.
    pub scale: f64,
}

/// Causal attention of `x` `[B, T, hidden]` to itself and what came before it.
pub fn attention(
    architecture: &Architecture,
    ctx: &ModelContext,
    layer: usize,
    x: &Tensor,
    rotation: &Rotation<'_>,
) -> Result<Tensor> {
    let Architecture { heads, key_value_heads, head_dim, .. } = *architecture;
    let prefix = format!("model.layers.{layer}.self_attn");
    let [q_proj, k_proj, v_proj] = ["q_proj", "k_proj", "v_proj"].map(|name| format!("{prefix}.{name}"));
    let [queries, keys, values] = ctx.linears([&q_proj, &k_proj, &v_proj], x)?;

    // [B, T, heads · D] → [B, heads, T, D]; -1 is T.
    let batch = x.shape()?[0] as i64;
    let split = |x: &Tensor, heads: usize| x.reshape(&[batch, -1, heads as i64, head_dim as i64]);
    let rotated = |x: &Tensor, norm: &str, heads: usize| -> Result<Tensor> {
        let mut x = split(x, heads)?;
        if architecture.query_key_norm {
            x = ctx.rms_norm(&format!("{prefix}.{norm}"), &x, architecture.rms_norm_eps)?;
        }
        ctx.rope(&x.transpose(&[0, 2, 1, 3])?, rotation.inverse_frequencies, rotation.scale)
    };
    let queries = rotated(&queries, "q_norm", heads)?;
    let keys = rotated(&keys, "k_norm", key_value_heads)?;
    let values = split(&values, key_value_heads)?.transpose(&[0, 2, 1, 3])?;

    let scale = 1.0 / (head_dim as f64).sqrt();
    let options = Attention { window: architecture.windows[layer], ..Attention::new(scale) };
    let attended = ctx.attention(&prefix, &queries, &keys, &values, &options)?;
    let joined = attended.transpose(&[0, 2, 1, 3])?.reshape(&[batch, -1, (heads * head_dim) as i64])?;
    ctx.linear(&format!("{prefix}.o_proj"), &joined)
}
