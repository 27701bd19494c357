//! Gemma 3, text (Kamath et al. 2025, <https://arxiv.org/abs/2503.19786>): five layers with a window to one that sees everything,
//! each kind with rotary positions of its own, and norms of each head's queries and keys.

use mdt_plugin_api::Result;

use super::gemma::{self, with_gemmas_embedding};
use super::gemma2::{cap, scale};
use crate::attention::{Attention, QueryKeyNorm};
use crate::config::{Defaults, Sizes};
use crate::decoder::{Decoder, Layer};
use crate::family::Family;
use crate::json::Object;
use crate::layer_types::{sliding_window, windows};
use crate::rope::{Rope, RopeDefaults};

/// Gemma 3.
#[derive(Debug)]
pub enum Gemma3 {}

impl Family for Gemma3 {
    const MODEL_TYPE: &'static str = "gemma3_text";
    const CLASS: &'static str = "Gemma3ForCausalLM";

    fn decoder(config: &Object<'_>) -> Result<Decoder> {
        let sizes =
            Sizes::read(config, &Defaults { key_value_heads: Some(4), max_positions: 131_072, ..gemma::DEFAULTS })?;
        let attention = Attention {
            scale: scale(config)?,
            query_key_norm: QueryKeyNorm::EachHead,
            ..gemma::attention(config, &sizes)?
        };
        let feed_forward = gemma::feed_forward(config, "hidden_activation", &sizes)?;
        let pattern = match config.size("sliding_window_pattern")? {
            Some(pattern) => pattern,
            None => config.size("_sliding_window_pattern")?.unwrap_or(6),
        };
        let slides = |layer: usize| !(layer + 1).is_multiple_of(pattern);
        let layer = |window: Option<usize>| {
            let rope = Some(if window.is_some() { LOCAL } else { GLOBAL });
            Layer::between_norms(Attention { window, rope, ..attention.clone() }, feed_forward.clone())
        };
        let windows = windows(config, sizes.layers, sliding_window(config, Some(4096))?, slides)?;
        let decoder = sizes.decoder_with(ropes(config, &sizes)?, windows.into_iter().map(layer).collect());
        let logits_soft_cap = cap(config, "final_logit_softcapping", None)?;
        Ok(Decoder { logits_soft_cap, ..with_gemmas_embedding(decoder) })
    }
}

/// The places of the two kinds of rotary positions.
const LOCAL: usize = 0;
const GLOBAL: usize = 1;

/// transformers 5 has an object for each kind; version 4 `rope_local_base_freq`, and `rope_theta` with `rope_scaling`.
fn ropes(config: &Object<'_>, sizes: &Sizes) -> Result<Vec<Rope>> {
    let newer = config.object("rope_parameters")?;
    if let Some(newer) = newer.as_ref().filter(|newer| newer.contains("rope_type") || newer.contains("rope_theta")) {
        return Err(newer.refuse("rope_type", "is not here: this family has an object for each kind of layers"));
    }
    let of_kind = |kind: &str| newer.as_ref().map(|newer| newer.object(kind)).transpose().map(Option::flatten);
    let older = config.object("rope_scaling")?.filter(|object| !object.is_empty());
    let global = match older {
        Some(older) => Some(older),
        None => of_kind("full_attention")?,
    };
    let defaults = |theta| RopeDefaults { theta, ..sizes.rope.clone() };
    Ok(vec![
        Rope::of_kind(config, of_kind("sliding_attention")?, "rope_local_base_freq", &defaults(1e4))?,
        Rope::of_kind(config, global, "rope_theta", &defaults(1e6))?,
    ])
}
