//! Mistral 7B (Jiang et al. 2023, <https://arxiv.org/abs/2310.06825>): a Llama whose layers all see a window.

use mdt_plugin_api::Result;

use crate::attention::Attention;
use crate::config::{Defaults, Sizes};
use crate::decoder::{Decoder, Layer};
use crate::family::Family;
use crate::json::Object;
use crate::layer_types::{same_window, sliding_window};

/// Mistral.
#[derive(Debug)]
pub enum Mistral {}

impl Family for Mistral {
    const MODEL_TYPE: &'static str = "mistral";
    const CLASS: &'static str = "MistralForCausalLM";

    fn decoder(config: &Object<'_>) -> Result<Decoder> {
        let defaults = Defaults { key_value_heads: Some(8), max_positions: 131_072, ..Defaults::LLAMA };
        let sizes = Sizes::read(config, &defaults)?;
        let attention = Attention {
            window: same_window(config, sizes.layers, sliding_window(config, Some(4096))?)?,
            ..sizes.attention()
        };
        let layer = Layer::new(attention, sizes.gated(config, false)?);
        sizes.decoder(config, vec![layer; sizes.layers])
    }
}
