//! What a Llama is made of, read from a `config.json` as transformers 4 and 5 write it.

use mdt_plugin_api::Result;
use mdt_plugin_api::serde_json::Value;

use crate::json::Object;
use crate::rope::Rope;

/// The architecture. Where a key is absent, transformers' default holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads; divides `heads`.
    pub key_value_heads: usize,
    /// Width of a head; not always `hidden_size / heads`.
    pub head_dim: usize,
    /// Added to the mean square in norms.
    pub rms_norm_eps: f64,
    /// Whether q, k, v and o projections have biases.
    pub attention_bias: bool,
    /// Whether the MLP's projections have biases.
    pub mlp_bias: bool,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
    /// Rotary positions.
    pub rope: Rope,
}

impl Architecture {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// A missing key, a wrong type, sizes that do not fit each other, or a feature that would change the mathematics
    /// and is not implemented; the error names the key.
    pub fn read(json: &Value) -> Result<Self> {
        let config = Object::root(json)?;
        refuse_other_mathematics(&config)?;
        let size = |key: &str| config.required(key, config.size(key)?);
        let (hidden_size, heads) = (size("hidden_size")?, size("num_attention_heads")?);
        let key_value_heads = config.size("num_key_value_heads")?.unwrap_or(heads);
        if heads % key_value_heads != 0 {
            let why = format!("is {key_value_heads}, which does not divide num_attention_heads, {heads}");
            return Err(config.refuse("num_key_value_heads", why));
        }
        let head_dim = match config.size("head_dim")? {
            Some(head_dim) => head_dim,
            None if hidden_size % heads == 0 => hidden_size / heads,
            None => {
                let why = format!("is {heads}, which does not divide hidden_size, {hidden_size}");
                return Err(config.refuse("num_attention_heads", why));
            }
        };
        if head_dim % 2 != 0 {
            return Err(config.refuse("head_dim", format!("is {head_dim}; rotary positions need an even one")));
        }
        Ok(Self {
            vocab_size: size("vocab_size")?,
            hidden_size,
            intermediate_size: size("intermediate_size")?,
            layers: size("num_hidden_layers")?,
            heads,
            key_value_heads,
            head_dim,
            rms_norm_eps: config.positive("rms_norm_eps")?.unwrap_or(1e-6),
            attention_bias: config.boolean("attention_bias")?.unwrap_or(false),
            mlp_bias: config.boolean("mlp_bias")?.unwrap_or(false),
            tie_word_embeddings: config.boolean("tie_word_embeddings")?.unwrap_or(false),
            initializer_range: config.number("initializer_range")?.unwrap_or(0.02),
            rope: Rope::read(&config, head_dim)?,
        })
    }
}

/// Keys that other models and later versions put into the same file.
fn refuse_other_mathematics(config: &Object<'_>) -> Result<()> {
    if let Some(other) = config.text("model_type")?.filter(|&name| name != "llama") {
        return Err(config.refuse("model_type", format!("is {other:?}; this model plugin reads \"llama\"")));
    }
    if let Some(other) = config.text("hidden_act")?.filter(|&name| name != "silu") {
        return Err(config.refuse("hidden_act", format!("is {other:?}; only \"silu\" is implemented")));
    }
    if let Some(rate) = config.number("attention_dropout")?.filter(|&rate| rate != 0.0) {
        return Err(config.refuse("attention_dropout", format!("is {rate}; dropout in attention is not implemented")));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
