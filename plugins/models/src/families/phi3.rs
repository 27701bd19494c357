//! Phi-3 and Phi-4 (Abdin et al. 2024, <https://arxiv.org/abs/2404.14219>): fused projections; a part of each head may be rotated, and
//! by other frequencies in long sequences.

use mdt_plugin_api::Result;

use crate::attention::{Attention, Projections};
use crate::config::{Defaults, Sizes};
use crate::decoder::{Decoder, Layer, Residual};
use crate::family::Family;
use crate::feed_forward::{Activation, FeedForward, Inner};
use crate::json::Object;
use crate::layer_types::{same_window, sliding_window};
use crate::rope::RopeDefaults;

/// Phi-3.
#[derive(Debug)]
pub enum Phi3 {}

impl Family for Phi3 {
    const MODEL_TYPE: &'static str = "phi3";
    const CLASS: &'static str = "Phi3ForCausalLM";

    fn decoder(config: &Object<'_>) -> Result<Decoder> {
        let mut sizes = Sizes::read(config, &Defaults { max_positions: 4096, eps: 1e-5, ..Defaults::LLAMA })?;
        sizes.rope = RopeDefaults { partial: true, original: Some(4096), ..sizes.rope };
        let attention = Attention {
            projections: Projections::Fused { inputs: "qkv_proj", output: "o_proj" },
            window: same_window(config, sizes.layers, sliding_window(config, None)?)?,
            ..sizes.attention()
        };
        let activation = Activation::read(config, "hidden_act", Activation::Silu)?;
        let feed_forward = FeedForward::FusedGated(Inner { width: sizes.inner, activation, bias: false });
        let dropout = config.rate("resid_pdrop")?;
        let mut layer = Layer::new(attention, feed_forward);
        layer.around_attention = Residual { dropout, ..layer.around_attention };
        layer.around_feed_forward = Residual { dropout, ..layer.around_feed_forward };
        // transformers has no dropout of embeddings here, whatever the file says.
        config.rate("embd_pdrop")?;
        sizes.decoder(config, vec![layer; sizes.layers])
    }
}
