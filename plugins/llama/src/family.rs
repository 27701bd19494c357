//! The differences between the members of the family: biases, norms, windows, and defaults of their configs.
//!
//! The source is each model's configuration and modeling file in transformers. A key that a class there does not read
//! has no effect here either. What is not listed here is the same for all of them, defaults too.

use crate::sliding_window::WindowRule;

/// One architecture.
#[derive(Debug)]
pub struct Family {
    /// Its `model_type`, which is its component's id too.
    pub model_type: &'static str,
    /// The class that transformers loads it with.
    pub class: &'static str,
    /// Which projections of attention have biases.
    pub attention_bias: AttentionBias,
    /// Whether its config has a key `mlp_bias`.
    pub reads_mlp_bias: bool,
    /// Whether queries and keys are normed, each head on its own, before they are rotated.
    pub query_key_norm: bool,
    /// Which layers attend within a window.
    pub window: WindowRule,
    /// `num_key_value_heads` where it is absent; as many as query heads where that is `None`.
    pub key_value_heads: Option<usize>,
    /// `head_dim` where it is absent; `hidden_size / num_attention_heads` where that is `None`.
    pub head_dim: Option<usize>,
    /// `max_position_embeddings` where it is absent.
    pub max_positions: usize,
}

/// Which projections of attention have biases.
#[derive(Clone, Copy, Debug)]
pub enum AttentionBias {
    /// None.
    Never,
    /// All four or none, as the key `attention_bias` says; none where it is absent.
    Configured,
    /// q, k and v, but not o.
    Inputs,
}

/// The name of a family as a type: a component is made without being told its id, so its type has to know.
pub trait Member: 'static {
    /// The family.
    const FAMILY: Family;
}

/// Llama 1 to 3, SmolLM, and whatever else has this `model_type`.
#[derive(Debug)]
pub enum Llama {}

impl Member for Llama {
    const FAMILY: Family = Family {
        model_type: "llama",
        class: "LlamaForCausalLM",
        attention_bias: AttentionBias::Configured,
        reads_mlp_bias: true,
        query_key_norm: false,
        window: WindowRule::Never,
        key_value_heads: None,
        head_dim: None,
        max_positions: 2048,
    };
}

/// Mistral.
#[derive(Debug)]
pub enum Mistral {}

impl Member for Mistral {
    const FAMILY: Family = Family {
        model_type: "mistral",
        class: "MistralForCausalLM",
        attention_bias: AttentionBias::Never,
        reads_mlp_bias: false,
        query_key_norm: false,
        window: WindowRule::EveryLayer,
        key_value_heads: Some(8),
        head_dim: None,
        max_positions: 131_072,
    };
}

/// Qwen2 and 2.5.
#[derive(Debug)]
pub enum Qwen2 {}

impl Member for Qwen2 {
    const FAMILY: Family = Family {
        model_type: "qwen2",
        class: "Qwen2ForCausalLM",
        attention_bias: AttentionBias::Inputs,
        reads_mlp_bias: false,
        query_key_norm: false,
        window: WindowRule::LaterLayers,
        key_value_heads: Some(32),
        head_dim: None,
        max_positions: 32_768,
    };
}

/// Qwen3, dense.
#[derive(Debug)]
pub enum Qwen3 {}

impl Member for Qwen3 {
    const FAMILY: Family = Family {
        model_type: "qwen3",
        class: "Qwen3ForCausalLM",
        attention_bias: AttentionBias::Configured,
        reads_mlp_bias: false,
        query_key_norm: true,
        window: WindowRule::LaterLayers,
        key_value_heads: Some(32),
        head_dim: Some(128),
        max_positions: 32_768,
    };
}
