//! Qwen2 and 2.5 (Yang et al. 2024, <https://arxiv.org/abs/2407.10671>): biases of queries, keys and values.

use mdt_plugin_api::Result;

use crate::attention::Attention;
use crate::config::{Defaults, Sizes};
use crate::decoder::{Decoder, Layer};
use crate::family::Family;
use crate::json::Object;
use crate::layer_types::windows_of_later_layers;

/// Qwen2.
#[derive(Debug)]
pub enum Qwen2 {}

impl Family for Qwen2 {
    const MODEL_TYPE: &'static str = "qwen2";
    const CLASS: &'static str = "Qwen2ForCausalLM";

    fn decoder(config: &Object<'_>) -> Result<Decoder> {
        let defaults = Defaults { key_value_heads: Some(32), max_positions: 32_768, ..Defaults::LLAMA };
        let sizes = Sizes::read(config, &defaults)?;
        // Some files have it; these biases are there whatever it says.
        config.boolean("attention_bias")?;
        let feed_forward = sizes.gated(config, false)?;
        let layer =
            |window| Layer::new(Attention { input_bias: true, window, ..sizes.attention() }, feed_forward.clone());
        let windows = windows_of_later_layers(config, sizes.layers)?;
        sizes.decoder(config, windows.into_iter().map(layer).collect())
    }
}
