//! SmolLM3 (Bakouch et al. 2025, <https://huggingface.co/blog/smollm3>): a Llama of which every fourth layer has no positions.

use mdt_plugin_api::Result;

use crate::attention::Attention;
use crate::config::{Defaults, Sizes};
use crate::decoder::{Decoder, Layer};
use crate::family::Family;
use crate::json::Object;
use crate::layer_types::{used_sliding_window, windows};

/// SmolLM3.
#[derive(Debug)]
pub enum SmolLm3 {}

impl Family for SmolLm3 {
    const MODEL_TYPE: &'static str = "smollm3";
    const CLASS: &'static str = "SmolLM3ForCausalLM";

    fn decoder(config: &Object<'_>) -> Result<Decoder> {
        let defaults =
            Defaults { key_value_heads: Some(4), max_positions: 32_768, theta: 2e6, tied: true, ..Defaults::LLAMA };
        let sizes = Sizes::read(config, &defaults)?;
        let rotated = rotated_layers(config, sizes.layers)?;
        let bias = config.flag("attention_bias")?;
        let feed_forward = sizes.gated(config, config.flag("mlp_bias")?)?;
        // Where windows are used, layers without positions have them.
        let windows = windows(config, sizes.layers, used_sliding_window(config, None)?, |layer| !rotated[layer])?;
        let layer = |(window, &rotated): (Option<usize>, &bool)| {
            let rope = rotated.then_some(0);
            let attention = Attention { input_bias: bias, output_bias: bias, window, rope, ..sizes.attention() };
            Layer::new(attention, feed_forward.clone())
        };
        sizes.decoder(config, windows.into_iter().zip(&rotated).map(layer).collect())
    }
}

/// `no_rope_layers`, which has a 1 where a layer has positions; or all but every `no_rope_layer_interval`th.
fn rotated_layers(config: &Object<'_>, layers: usize) -> Result<Vec<bool>> {
    let interval = config.size("no_rope_layer_interval")?.unwrap_or(4);
    let Some(listed) = config.counts("no_rope_layers")? else {
        return Ok((1..=layers).map(|number| !number.is_multiple_of(interval)).collect());
    };
    if listed.len() != layers {
        let why = format!("has {} entries for the {layers} layers of num_hidden_layers", listed.len());
        return Err(config.refuse("no_rope_layers", why));
    }
    Ok(listed.into_iter().map(|has_positions| has_positions != 0).collect())
}
