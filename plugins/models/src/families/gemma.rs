//! Gemma (Mesnard et al. 2024, <https://arxiv.org/abs/2403.08295>): scaled embeddings, norms that multiply by 1 + w, GELU.

use mdt_plugin_api::Result;

use crate::attention::Attention;
use crate::config::{Defaults, Sizes};
use crate::decoder::{Decoder, Layer};
use crate::family::Family;
use crate::feed_forward::{Activation, FeedForward, Inner};
use crate::json::Object;
use crate::norm::Norm;

/// Gemma.
#[derive(Debug)]
pub enum Gemma {}

impl Family for Gemma {
    const MODEL_TYPE: &'static str = "gemma";
    const CLASS: &'static str = "GemmaForCausalLM";

    fn decoder(config: &Object<'_>) -> Result<Decoder> {
        let sizes = Sizes::read(config, &Defaults { key_value_heads: Some(16), ..DEFAULTS })?;
        let key = if config.text("hidden_activation")?.is_some() { "hidden_activation" } else { "hidden_act" };
        let feed_forward = match feed_forward(config, key, &sizes)? {
            // What the first files call "gelu" was trained with tanh.
            FeedForward::Gated(inner) if inner.activation == Activation::Gelu => {
                FeedForward::Gated(Inner { activation: Activation::GeluTanh, ..inner })
            }
            other => other,
        };
        let attention = attention(config, &sizes)?;
        let layer = Layer::new(attention, feed_forward);
        Ok(with_gemmas_embedding(sizes.decoder(config, vec![layer; sizes.layers])?))
    }
}

/// What all Gemmas have where a key is absent.
pub const DEFAULTS: Defaults = Defaults { head_dim: Some(256), max_positions: 8192, tied: true, ..Defaults::LLAMA };

/// Attention with biases or without, as `attention_bias` says.
///
/// # Errors
/// It is no boolean.
pub fn attention(config: &Object<'_>, sizes: &Sizes) -> Result<Attention> {
    let bias = config.flag("attention_bias")?;
    Ok(Attention { input_bias: bias, output_bias: bias, ..sizes.attention() })
}

/// A gated part, whose activation this key says.
///
/// # Errors
/// It is one that is not here.
pub fn feed_forward(config: &Object<'_>, key: &str, sizes: &Sizes) -> Result<FeedForward> {
    let activation = Activation::read(config, key, Activation::GeluTanh)?;
    Ok(FeedForward::Gated(Inner { width: sizes.inner, activation, bias: false }))
}

/// The same decoder with embeddings times √D and norms with 1 + w.
pub fn with_gemmas_embedding(decoder: Decoder) -> Decoder {
    let norm = match decoder.norm {
        Norm::Rms(eps) => Norm::RmsPlusOne(eps),
        other => other,
    };
    Decoder { embedding_multiplier: (decoder.hidden_size as f64).sqrt(), norm, ..decoder }
}
