//! StarCoder 2 (Lozhkov et al. 2024, <https://arxiv.org/abs/2402.19173>): layer norms, biases, an MLP without a gate, windows.

use mdt_plugin_api::Result;

use crate::attention::Attention;
use crate::config::{Defaults, Sizes};
use crate::decoder::{Decoder, Layer, Residual};
use crate::family::Family;
use crate::feed_forward::{Activation, FeedForward, Inner};
use crate::json::Object;
use crate::layer_types::{same_window, sliding_window};
use crate::norm::Norm;

/// StarCoder 2.
#[derive(Debug)]
pub enum Starcoder2 {}

impl Family for Starcoder2 {
    const MODEL_TYPE: &'static str = "starcoder2";
    const CLASS: &'static str = "Starcoder2ForCausalLM";

    fn decoder(config: &Object<'_>) -> Result<Decoder> {
        let defaults = Defaults { key_value_heads: Some(2), max_positions: 4096, tied: true, ..Defaults::LLAMA };
        let mut sizes = Sizes::read(config, &defaults)?;
        sizes.initializer_range = config.number("initializer_range")?.unwrap_or(0.018_042);
        let bias = config.boolean("use_bias")?.unwrap_or(true);
        let window = same_window(config, sizes.layers, sliding_window(config, None)?)?;
        let activation = Activation::read(config, "hidden_act", Activation::GeluTanh)?;
        let mut layer = Layer::new(
            Attention { input_bias: bias, output_bias: bias, window, ..sizes.attention() },
            FeedForward::Plain(Inner { width: sizes.inner, activation, bias }),
        );
        let dropout = config.rate("residual_dropout")?;
        layer.around_attention = Residual { dropout, ..layer.around_attention };
        layer.around_feed_forward = Residual { dropout, ..layer.around_feed_forward };
        Ok(Decoder {
            embedding_dropout: config.rate("embedding_dropout")?,
            norm: Norm::Layer(config.positive("norm_epsilon")?.unwrap_or(1e-5)),
            ..sizes.decoder(config, vec![layer; sizes.layers])?
        })
    }
}
