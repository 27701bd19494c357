//! Qwen3 with experts (Yang et al. 2025, <https://arxiv.org/abs/2505.09388>), in some layers or all.

use mdt_plugin_api::Result;

use super::qwen3;
use crate::attention::Attention;
use crate::config::{Defaults, Sizes};
use crate::decoder::{Decoder, Layer};
use crate::experts::Experts;
use crate::family::Family;
use crate::feed_forward::{Activation, FeedForward};
use crate::json::Object;
use crate::layer_types::{same_window, used_sliding_window};

/// Qwen3-MoE.
#[derive(Debug)]
pub enum Qwen3Moe {}

impl Family for Qwen3Moe {
    const MODEL_TYPE: &'static str = "qwen3_moe";
    const CLASS: &'static str = "Qwen3MoeForCausalLM";

    fn decoder(config: &Object<'_>) -> Result<Decoder> {
        let defaults = Defaults { key_value_heads: Some(4), max_positions: 32_768, ..Defaults::LLAMA };
        let sizes = Sizes::read(config, &defaults)?;
        let [count, each] = Experts::counts(config, &["num_experts", "num_local_experts"], [128, 8])?;
        let experts = Experts {
            name: "mlp",
            parts: ["gate_proj", "up_proj", "down_proj"],
            count,
            each,
            inner: config.size("moe_intermediate_size")?.unwrap_or(768),
            activation: Activation::read(config, "hidden_act", Activation::Silu)?,
            normalised: config.flag("norm_topk_prob")?,
        };
        let step = config.size("decoder_sparse_step")?.unwrap_or(1);
        let dense = config.counts("mlp_only_layers")?.unwrap_or_default();
        let window = same_window(config, sizes.layers, used_sliding_window(config, Some(4096))?)?;
        let attention = Attention { window, ..qwen3::attention(config, &sizes)? };
        let gated = sizes.gated(config, false)?;
        let layer = |number: usize| {
            let has_experts = (number + 1).is_multiple_of(step) && !dense.contains(&(number as u64));
            let feed_forward = if has_experts { FeedForward::Experts(experts.clone()) } else { gated.clone() };
            Layer::new(attention.clone(), feed_forward)
        };
        let decoder = sizes.decoder(config, (0..sizes.layers).map(layer).collect())?;
        Ok(Decoder { router_loss: Experts::router_loss(config)?, ..decoder })
    }
}
