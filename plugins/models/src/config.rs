//! The sizes that most families read of a `config.json`, as transformers 4 and 5 write it.

use mdt_plugin_api::Result;
use mdt_plugin_api::serde_json::Value;

use crate::attention::{Attention, Projections, QueryKeyNorm};
use crate::decoder::{Decoder, Layer, Names};
use crate::feed_forward::{Activation, FeedForward, Inner};
use crate::json::{LARGEST_SIZE, Object};
use crate::norm::Norm;
use crate::rope::{Rope, RopeDefaults};

/// More layers than any model has; a larger number would only fill the memory with their names.
const MOST_LAYERS: usize = 10_000;

/// What holds where a key is absent: the defaults of the family's class in transformers.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// `num_key_value_heads`; as many as query heads where that is `None`.
    pub key_value_heads: Option<usize>,
    /// `head_dim`; `hidden_size / num_attention_heads` where that is `None`.
    pub head_dim: Option<usize>,
    /// `max_position_embeddings`.
    pub max_positions: usize,
    /// `rope_theta`.
    pub theta: f64,
    /// `rms_norm_eps`.
    pub eps: f64,
    /// `tie_word_embeddings`.
    pub tied: bool,
}

impl Defaults {
    /// Those of Llama.
    pub const LLAMA: Self =
        Self { key_value_heads: None, head_dim: None, max_positions: 2048, theta: 10_000.0, eps: 1e-6, tied: false };
}

/// The sizes.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// Rows of the embedding.
    pub vocabulary: usize,
    /// Width of the hidden states.
    pub hidden: usize,
    /// Width inside the MLP.
    pub inner: usize,
    /// Number of layers.
    pub layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads; divides `heads`.
    pub key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// What is added to the mean square in norms.
    pub eps: f64,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// The part of the weights of attention that is set to 0 in training.
    pub attention_dropout: f64,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
    /// What rotary positions have where the file does not say it.
    pub rope: RopeDefaults,
}

impl Sizes {
    /// Reads them.
    ///
    /// # Errors
    /// A missing key, a wrong type, sizes that do not fit each other; the error names the key.
    pub fn read(config: &Object<'_>, defaults: &Defaults) -> Result<Self> {
        let size = |key: &str| config.required(key, config.size(key)?);
        let (hidden, heads) = (size("hidden_size")?, size("num_attention_heads")?);
        // Null means as many as query heads in every family; the default of an absent key differs.
        let absent = if config.contains("num_key_value_heads") { None } else { defaults.key_value_heads };
        let key_value_heads = config.size("num_key_value_heads")?.or(absent).unwrap_or(heads);
        if heads % key_value_heads != 0 {
            let why = format!("is {key_value_heads}, which does not divide num_attention_heads, {heads}");
            return Err(config.refuse("num_key_value_heads", why));
        }
        let head_dim = match config.size("head_dim")?.or(defaults.head_dim) {
            Some(head_dim) => head_dim,
            None if hidden % heads == 0 => hidden / heads,
            None => {
                let why = format!("is {heads}, which does not divide hidden_size, {hidden}");
                return Err(config.refuse("num_attention_heads", why));
            }
        };
        if head_dim % 2 != 0 {
            return Err(config.refuse("head_dim", format!("is {head_dim}; rotary positions need an even one")));
        }
        if (heads as u64).saturating_mul(head_dim as u64) > LARGEST_SIZE {
            return Err(config.refuse("head_dim", format!("is {head_dim}, too wide for {heads} heads")));
        }
        Ok(Self {
            vocabulary: size("vocab_size")?,
            hidden,
            inner: size("intermediate_size")?,
            layers: layers(config, "num_hidden_layers")?,
            heads,
            key_value_heads,
            head_dim,
            eps: config.positive("rms_norm_eps")?.unwrap_or(defaults.eps),
            tied: config.boolean("tie_word_embeddings")?.unwrap_or(defaults.tied),
            attention_dropout: config.rate("attention_dropout")?,
            initializer_range: config.number("initializer_range")?.unwrap_or(0.02),
            rope: RopeDefaults {
                head_dim,
                theta: defaults.theta,
                max_positions: defaults.max_positions,
                ..RopeDefaults::PLAIN
            },
        })
    }

    /// Llama's attention: no biases, no norms, rotated, to all earlier tokens.
    pub fn attention(&self) -> Attention {
        Attention {
            name: "self_attn",
            projections: Projections::Separate,
            heads: self.heads,
            key_value_heads: self.key_value_heads,
            head_dim: self.head_dim,
            input_bias: false,
            output_bias: false,
            query_key_norm: QueryKeyNorm::No,
            rope: Some(0),
            window: None,
            scale: 1.0 / (self.head_dim as f64).sqrt(),
            soft_cap: None,
            dropout: self.attention_dropout,
        }
    }

    /// Llama's MLP.
    ///
    /// # Errors
    /// `hidden_act` is an activation that is not here.
    pub fn gated(&self, config: &Object<'_>, bias: bool) -> Result<FeedForward> {
        let activation = Activation::read(config, "hidden_act", Activation::Silu)?;
        Ok(FeedForward::Gated(Inner { width: self.inner, activation, bias }))
    }

    /// A decoder of these layers with Llama's names, norms, embeddings, head, and one kind of rotary positions.
    ///
    /// # Errors
    /// Those of [`Rope::read`].
    pub fn decoder(&self, config: &Object<'_>, layers: Vec<Layer>) -> Result<Decoder> {
        Ok(self.decoder_with(vec![Rope::read(config, &self.rope)?], layers))
    }

    /// The same with several kinds of rotary positions.
    pub fn decoder_with(&self, ropes: Vec<Rope>, layers: Vec<Layer>) -> Decoder {
        Decoder {
            names: Names::LLAMA,
            vocabulary_size: self.vocabulary,
            hidden_size: self.hidden,
            initializer_range: self.initializer_range,
            tied: self.tied,
            positions: None,
            embedding_multiplier: 1.0,
            embedding_dropout: 0.0,
            ropes,
            layers,
            norm: Norm::Rms(self.eps),
            logits_multiplier: 1.0,
            logits_soft_cap: None,
            router_loss: None,
        }
    }
}

/// The number of layers, by the key that says it.
///
/// # Errors
/// It is missing, or more than any model has.
pub fn layers(config: &Object<'_>, key: &str) -> Result<usize> {
    let layers = config.required(key, config.size(key)?)?;
    if layers > MOST_LAYERS {
        let why = format!("is {layers}, which no model has: it may be {MOST_LAYERS} at most");
        return Err(config.refuse(key, why));
    }
    Ok(layers)
}

/// Keys that are other mathematics wherever they say something, and the number that says nothing; `false` says nothing too.
const OTHER_MATHEMATICS: [(&str, f64); 30] = [
    ("add_cross_attention", 0.0),
    ("alibi", 0.0),
    ("attention_bias", 0.0),
    ("attention_multiplier", f64::NAN),
    ("attn_logit_softcapping", 0.0),
    ("attn_temperature_tuning", 0.0),
    ("clip_qkv", 0.0),
    ("embedding_multiplier", 1.0),
    ("final_logit_softcapping", 0.0),
    ("hidden_dropout", 0.0),
    ("lm_head_bias", 0.0),
    ("logit_scale", 1.0),
    ("logits_scaling", 1.0),
    ("mlp_bias", 0.0),
    ("no_rope_layers", f64::NAN),
    ("num_experts", 0.0),
    ("num_local_experts", 0.0),
    ("partial_rotary_factor", 1.0),
    ("qk_layernorm", 0.0),
    ("query_pre_attn_scalar", f64::NAN),
    ("residual_multiplier", 1.0),
    ("rope_interleaved", 0.0),
    ("rope_local_base_freq", f64::NAN),
    ("router_jitter_noise", 0.0),
    ("scale_depth", f64::NAN),
    ("scale_emb", 1.0),
    ("use_bidirectional_attention", 0.0),
    ("use_mrope", 0.0),
    ("use_parallel_residual", 0.0),
    ("use_qk_norm", 0.0),
];

/// Refuses keys that nobody has read and that would make it another model.
///
/// # Errors
/// There is one; the error names it.
pub fn refuse_other_mathematics(config: &Object<'_>, model_type: &str) -> Result<()> {
    for (key, value) in config.unread() {
        let says_something = match OTHER_MATHEMATICS.iter().find(|(name, _)| *name == key) {
            Some((_, nothing)) => *value != Value::Bool(false) && value.as_f64() != Some(*nothing),
            None if key == "layer_types" => {
                value.as_array().is_none_or(|kinds| kinds.iter().any(|kind| kind != "full_attention"))
            }
            None => false,
        };
        if says_something {
            let why =
                format!("is {:.100}, which would be another model than a {model_type} is here", value.to_string());
            return Err(config.refuse(key, why));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
