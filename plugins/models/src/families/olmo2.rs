//! OLMo 2 (Walsh et al. 2025, <https://arxiv.org/abs/2501.00656>): norms after both parts of a layer, and of all heads' queries and
//! keys together.

use mdt_plugin_api::Result;

use crate::attention::{Attention, QueryKeyNorm};
use crate::config::{Defaults, Sizes};
use crate::decoder::{Decoder, Layer, Residual};
use crate::family::Family;
use crate::json::Object;

/// OLMo 2.
#[derive(Debug)]
pub enum Olmo2 {}

impl Family for Olmo2 {
    const MODEL_TYPE: &'static str = "olmo2";
    const CLASS: &'static str = "Olmo2ForCausalLM";

    fn decoder(config: &Object<'_>) -> Result<Decoder> {
        let sizes = Sizes::read(config, &Defaults { eps: 1e-5, ..Defaults::LLAMA })?;
        let bias = config.flag("attention_bias")?;
        let query_key_norm = QueryKeyNorm::AllHeads;
        let layer = Layer {
            attention: Attention { input_bias: bias, output_bias: bias, query_key_norm, ..sizes.attention() },
            around_attention: Residual::after("post_attention_layernorm"),
            feed_forward: sizes.gated(config, false)?,
            around_feed_forward: Residual::after("post_feedforward_layernorm"),
        };
        sizes.decoder(config, vec![layer; sizes.layers])
    }
}
