//! Mixtral (Jiang et al. 2024, <https://arxiv.org/abs/2401.04088>): a Mistral with experts in every layer.

use mdt_plugin_api::Result;

use crate::attention::Attention;
use crate::config::{Defaults, Sizes};
use crate::decoder::{Decoder, Layer};
use crate::experts::Experts;
use crate::family::Family;
use crate::feed_forward::{Activation, FeedForward};
use crate::json::Object;
use crate::layer_types::{same_window, sliding_window};

/// Mixtral.
#[derive(Debug)]
pub enum Mixtral {}

impl Family for Mixtral {
    const MODEL_TYPE: &'static str = "mixtral";
    const CLASS: &'static str = "MixtralForCausalLM";

    fn decoder(config: &Object<'_>) -> Result<Decoder> {
        let defaults =
            Defaults { key_value_heads: Some(8), max_positions: 131_072, theta: 1e6, eps: 1e-5, ..Defaults::LLAMA };
        let sizes = Sizes::read(config, &defaults)?;
        let [count, each] = Experts::counts(config, &["num_experts", "num_local_experts"], [8, 2])?;
        let experts = Experts {
            name: "block_sparse_moe",
            parts: ["w1", "w3", "w2"],
            count,
            each,
            inner: sizes.inner,
            activation: Activation::read(config, "hidden_act", Activation::Silu)?,
            normalised: true,
        };
        let attention = Attention {
            window: same_window(config, sizes.layers, sliding_window(config, None)?)?,
            ..sizes.attention()
        };
        let layer = Layer::new(attention, FeedForward::Experts(experts));
        let decoder = sizes.decoder(config, vec![layer; sizes.layers])?;
        Ok(Decoder { router_loss: Experts::router_loss(config)?, ..decoder })
    }
}
