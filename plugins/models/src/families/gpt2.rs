//! GPT-2 (Radford et al. 2019): learnt positions, layer norms, biases, weights `[in, out]`, dropout in training.

use mdt_plugin_api::{Layout, Result};

use crate::attention::{Attention, Projections, QueryKeyNorm};
use crate::config::layers;
use crate::decoder::{Decoder, Layer, Names, Residual};
use crate::family::Family;
use crate::feed_forward::{Activation, FeedForward, Inner};
use crate::json::Object;
use crate::norm::Norm;

/// GPT-2.
#[derive(Debug)]
pub enum Gpt2 {}

impl Family for Gpt2 {
    const MODEL_TYPE: &'static str = "gpt2";
    const CLASS: &'static str = "GPT2LMHeadModel";

    fn decoder(config: &Object<'_>) -> Result<Decoder> {
        let size = |key: &str| config.required(key, config.size(key)?);
        let (hidden, heads) = (size("n_embd")?, size("n_head")?);
        if hidden % heads != 0 {
            return Err(config.refuse("n_head", format!("is {heads}, which does not divide n_embd, {hidden}")));
        }
        let head_dim = hidden / heads;
        let scaled = config.boolean("scale_attn_weights")?.unwrap_or(true);
        let by_layer = config.flag("scale_attn_by_inverse_layer_idx")?;
        let scale = if scaled { 1.0 / (head_dim as f64).sqrt() } else { 1.0 };
        let attention = Attention {
            name: "attn",
            projections: Projections::Fused { inputs: "c_attn", output: "c_proj" },
            heads,
            key_value_heads: heads,
            head_dim,
            input_bias: true,
            output_bias: true,
            query_key_norm: QueryKeyNorm::No,
            rope: None,
            window: None,
            scale,
            soft_cap: None,
            dropout: dropout(config, "attn_pdrop")?,
        };
        let feed_forward = FeedForward::Plain(Inner {
            width: config.size("n_inner")?.unwrap_or(4 * hidden),
            activation: Activation::read(config, "activation_function", Activation::GeluTanh)?,
            bias: true,
        });
        let dropped = dropout(config, "resid_pdrop")?;
        let around = |name| Residual { dropout: dropped, ..Residual::before(name) };
        let layer = |number: usize| Layer {
            attention: Attention {
                scale: if by_layer { scale / (number + 1) as f64 } else { scale },
                ..attention.clone()
            },
            around_attention: around("ln_1"),
            feed_forward: feed_forward.clone(),
            around_feed_forward: around("ln_2"),
        };
        Ok(Decoder {
            // The first checkpoints, and those of many others, have names without "transformer.".
            names: Names {
                embedding: "transformer.wte",
                layers: "transformer.h",
                norm: "transformer.ln_f",
                optional: "transformer.",
                layout: Layout::InOut,
            },
            vocabulary_size: size("vocab_size")?,
            hidden_size: hidden,
            initializer_range: config.number("initializer_range")?.unwrap_or(0.02),
            tied: config.boolean("tie_word_embeddings")?.unwrap_or(true),
            positions: Some(config.size("n_positions")?.unwrap_or(1024)),
            embedding_multiplier: 1.0,
            embedding_dropout: dropout(config, "embd_pdrop")?,
            ropes: Vec::new(),
            layers: (0..layers(config, "n_layer")?).map(layer).collect(),
            norm: Norm::Layer(config.positive("layer_norm_epsilon")?.unwrap_or(1e-5)),
            logits_multiplier: 1.0,
            logits_soft_cap: None,
            router_loss: None,
        })
    }
}

/// transformers' default is 0.1 where the key is absent.
fn dropout(config: &Object<'_>, key: &str) -> Result<f64> {
    if config.contains(key) { config.rate(key) } else { Ok(0.1) }
}
