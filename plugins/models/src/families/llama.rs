//! Llama 1 to 3 (Touvron et al. 2023, <https://arxiv.org/abs/2302.13971>), SmolLM, and whatever else has this `model_type`.

use mdt_plugin_api::Result;

use crate::attention::Attention;
use crate::config::{Defaults, Sizes};
use crate::decoder::{Decoder, Layer};
use crate::family::Family;
use crate::json::Object;

/// Llama.
#[derive(Debug)]
pub enum Llama {}

impl Family for Llama {
    const MODEL_TYPE: &'static str = "llama";
    const CLASS: &'static str = "LlamaForCausalLM";

    fn decoder(config: &Object<'_>) -> Result<Decoder> {
        let sizes = Sizes::read(config, &Defaults::LLAMA)?;
        let bias = config.flag("attention_bias")?;
        let attention = Attention { input_bias: bias, output_bias: bias, ..sizes.attention() };
        let layer = Layer::new(attention, sizes.gated(config, config.flag("mlp_bias")?)?);
        sizes.decoder(config, vec![layer; sizes.layers])
    }
}
