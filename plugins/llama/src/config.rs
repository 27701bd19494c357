//! The architecture of a model, read from a `config.json` as transformers 4 and 5 write it.

use mdt_plugin_api::Result;
use mdt_plugin_api::serde_json::Value;

use crate::family::{AttentionBias, Family};
use crate::json::{LARGEST_SIZE, Object};
use crate::rope_frequencies::Rope;

/// More layers than any model has; a larger number would only fill the memory with their names.
const MOST_LAYERS: usize = 10_000;

/// The architecture. Where a key is absent, the default of the family's class in transformers holds.
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
    /// Whether the q, k and v projections have biases.
    pub query_key_value_bias: bool,
    /// Whether the o projection has a bias.
    pub output_bias: bool,
    /// Whether the MLP's projections have biases.
    pub mlp_bias: bool,
    /// Whether queries and keys are normed, each head on its own, before they are rotated.
    pub query_key_norm: bool,
    /// How many tokens each layer sees at most, itself included; `None` where it sees everything.
    pub windows: Vec<Option<usize>>,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
    /// Rotary positions.
    pub rope: Rope,
}

impl Architecture {
    /// Reads a `config.json` of this family.
    ///
    /// # Errors
    /// A missing key, a wrong type, sizes that do not fit each other, or a feature that would change the mathematics
    /// and is not implemented; the error names the key.
    pub fn read(json: &Value, family: &Family) -> Result<Self> {
        let config = Object::root(json)?;
        refuse_other_mathematics(&config, family)?;
        let size = |key: &str| config.required(key, config.size(key)?);
        let (hidden_size, heads) = (size("hidden_size")?, size("num_attention_heads")?);
        let key_value_heads = key_value_heads(&config, family, heads)?;
        if heads % key_value_heads != 0 {
            let why = format!("is {key_value_heads}, which does not divide num_attention_heads, {heads}");
            return Err(config.refuse("num_key_value_heads", why));
        }
        let head_dim = match config.size("head_dim")?.or(family.head_dim) {
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
        let (query_key_value_bias, output_bias) = match family.attention_bias {
            AttentionBias::Never => (false, false),
            AttentionBias::Inputs => (true, false),
            AttentionBias::Configured => {
                let all = config.boolean("attention_bias")?.unwrap_or(false);
                (all, all)
            }
        };
        if (heads.max(key_value_heads) as u64).saturating_mul(head_dim as u64) > LARGEST_SIZE {
            return Err(config.refuse("head_dim", format!("is {head_dim}, too wide for {heads} heads")));
        }
        let layers = size("num_hidden_layers")?;
        if layers > MOST_LAYERS {
            let why = format!("is {layers}, which no model has: it may be {MOST_LAYERS} at most");
            return Err(config.refuse("num_hidden_layers", why));
        }
        Ok(Self {
            vocab_size: size("vocab_size")?,
            hidden_size,
            intermediate_size: size("intermediate_size")?,
            layers,
            heads,
            key_value_heads,
            head_dim,
            rms_norm_eps: config.positive("rms_norm_eps")?.unwrap_or(1e-6),
            query_key_value_bias,
            output_bias,
            mlp_bias: family.reads_mlp_bias && config.boolean("mlp_bias")?.unwrap_or(false),
            query_key_norm: family.query_key_norm,
            windows: family.window.read(&config, layers)?,
            tie_word_embeddings: config.boolean("tie_word_embeddings")?.unwrap_or(false),
            initializer_range: config.number("initializer_range")?.unwrap_or(0.02),
            rope: Rope::read(&config, head_dim, family.max_positions)?,
        })
    }
}

/// Null means as many as query heads in every family; the default of an absent key differs.
fn key_value_heads(config: &Object<'_>, family: &Family, heads: usize) -> Result<usize> {
    let given = config.size("num_key_value_heads")?;
    let absent = if config.contains("num_key_value_heads") { None } else { family.key_value_heads };
    Ok(given.or(absent).unwrap_or(heads))
}

/// Refuses values that other models and later versions use and that are not implemented.
fn refuse_other_mathematics(config: &Object<'_>, family: &Family) -> Result<()> {
    if let Some(other) = config.text("model_type")?.filter(|&name| name != family.model_type) {
        let why = format!("is {other:?}; this model component reads {:?}", family.model_type);
        return Err(config.refuse("model_type", why));
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
