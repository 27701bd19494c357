//! Gemma 2 (Riviere et al. 2024, <https://arxiv.org/abs/2408.00118>): every second layer sees a window, norms around both parts of
//! a layer, capped scores and logits.

use mdt_plugin_api::Result;

use super::gemma::{self, with_gemmas_embedding};
use crate::attention::Attention;
use crate::config::{Defaults, Sizes};
use crate::decoder::{Decoder, Layer};
use crate::family::Family;
use crate::json::Object;
use crate::layer_types::{sliding_window, windows};

/// Gemma 2.
#[derive(Debug)]
pub enum Gemma2 {}

impl Family for Gemma2 {
    const MODEL_TYPE: &'static str = "gemma2";
    const CLASS: &'static str = "Gemma2ForCausalLM";

    fn decoder(config: &Object<'_>) -> Result<Decoder> {
        let sizes = Sizes::read(config, &Defaults { key_value_heads: Some(4), ..gemma::DEFAULTS })?;
        let attention = Attention {
            scale: scale(config)?,
            soft_cap: cap(config, "attn_logit_softcapping", Some(50.0))?,
            ..gemma::attention(config, &sizes)?
        };
        let feed_forward = gemma::feed_forward(config, "hidden_activation", &sizes)?;
        let windows = windows(config, sizes.layers, sliding_window(config, Some(4096))?, |layer| layer % 2 == 0)?;
        let layer = |window| Layer::between_norms(Attention { window, ..attention.clone() }, feed_forward.clone());
        let decoder = sizes.decoder(config, windows.into_iter().map(layer).collect())?;
        let logits_soft_cap = cap(config, "final_logit_softcapping", Some(30.0))?;
        Ok(Decoder { logits_soft_cap, ..with_gemmas_embedding(decoder) })
    }
}

/// What scores are multiplied by: it is not always `1 / √D`.
///
/// # Errors
/// It is no positive number.
pub fn scale(config: &Object<'_>) -> Result<f64> {
    Ok(1.0 / config.positive("query_pre_attn_scalar")?.unwrap_or(256.0).sqrt())
}

/// A cap; null is none.
///
/// # Errors
/// It is no positive number.
pub fn cap(config: &Object<'_>, key: &str, absent: Option<f64>) -> Result<Option<f64>> {
    if config.contains(key) { config.positive(key) } else { Ok(absent) }
}
