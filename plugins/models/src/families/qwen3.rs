//! Qwen3, dense (Yang et al. 2025, <https://arxiv.org/abs/2505.09388>): norms of each head's queries and keys.

use mdt_plugin_api::Result;

use crate::attention::{Attention, QueryKeyNorm};
use crate::config::{Defaults, Sizes};
use crate::decoder::{Decoder, Layer};
use crate::family::Family;
use crate::json::Object;
use crate::layer_types::windows_of_later_layers;

/// Qwen3.
#[derive(Debug)]
pub enum Qwen3 {}

impl Family for Qwen3 {
    const MODEL_TYPE: &'static str = "qwen3";
    const CLASS: &'static str = "Qwen3ForCausalLM";

    fn decoder(config: &Object<'_>) -> Result<Decoder> {
        let defaults =
            Defaults { key_value_heads: Some(32), head_dim: Some(128), max_positions: 32_768, ..Defaults::LLAMA };
        let sizes = Sizes::read(config, &defaults)?;
        let feed_forward = sizes.gated(config, false)?;
        let attention = attention(config, &sizes)?;
        let layer = |window| Layer::new(Attention { window, ..attention.clone() }, feed_forward.clone());
        let windows = windows_of_later_layers(config, sizes.layers)?;
        sizes.decoder(config, windows.into_iter().map(layer).collect())
    }
}

/// Qwen3's attention, which those with experts have too.
///
/// # Errors
/// `attention_bias` is no boolean.
pub fn attention(config: &Object<'_>, sizes: &Sizes) -> Result<Attention> {
    let bias = config.flag("attention_bias")?;
    let query_key_norm = QueryKeyNorm::EachHead;
    Ok(Attention { input_bias: bias, output_bias: bias, query_key_norm, ..sizes.attention() })
}
