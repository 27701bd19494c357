//! Granite 3, dense (Granite Team 2024): a Llama with multipliers of embeddings, scores, both parts of a layer, and logits, after Yang
//! et al. 2022, <https://arxiv.org/abs/2203.03466>.

use mdt_plugin_api::Result;

use crate::attention::Attention;
use crate::config::{Defaults, Sizes};
use crate::decoder::{Decoder, Layer, Residual};
use crate::family::Family;
use crate::json::Object;

/// Granite.
#[derive(Debug)]
pub enum Granite {}

impl Family for Granite {
    const MODEL_TYPE: &'static str = "granite";
    const CLASS: &'static str = "GraniteForCausalLM";

    fn decoder(config: &Object<'_>) -> Result<Decoder> {
        let sizes = Sizes::read(config, &Defaults::LLAMA)?;
        let factor = |key: &str| -> Result<f64> { Ok(config.positive(key)?.unwrap_or(1.0)) };
        let (bias, scale, multiplier) =
            (config.flag("attention_bias")?, factor("attention_multiplier")?, factor("residual_multiplier")?);
        let attention = Attention { input_bias: bias, output_bias: bias, scale, ..sizes.attention() };
        let mut layer = Layer::new(attention, sizes.gated(config, config.flag("mlp_bias")?)?);
        layer.around_attention = Residual { multiplier, ..layer.around_attention };
        layer.around_feed_forward = Residual { multiplier, ..layer.around_feed_forward };
        Ok(Decoder {
            embedding_multiplier: factor("embedding_multiplier")?,
            logits_multiplier: 1.0 / factor("logits_scaling")?,
            ..sizes.decoder(config, vec![layer; sizes.layers])?
        })
    }
}
