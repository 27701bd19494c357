//! What is read of a `config.json`, as transformers 4 and 5 write it.

use mdt_plugin_api::serde::Deserialize;
use mdt_plugin_api::serde_json::{self, Value};
use mdt_plugin_api::{Error, Result};

/// The keys; an absent one has the default of `StableLmConfig` in transformers.
#[derive(Deserialize)]
#[serde(crate = "mdt_plugin_api::serde", default)]
pub struct Architecture {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub layer_norm_eps: f64,
    pub initializer_range: f64,
    pub tie_word_embeddings: bool,
    pub use_qkv_bias: bool,
    pub use_parallel_residual: bool,
    pub hidden_dropout: f64,
    pub attention_dropout: f64,
    qk_layernorm: bool,
    hidden_act: String,
    /// transformers 5.
    rope_parameters: Rope,
    /// transformers 4.
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    rope_scaling: Value,
}

#[derive(Default, Deserialize)]
#[serde(crate = "mdt_plugin_api::serde")]
struct Rope {
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
}

impl Default for Architecture {
    fn default() -> Self {
        Self {
            vocab_size: 50_304,
            hidden_size: 2560,
            intermediate_size: 6912,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: 32,
            layer_norm_eps: 1e-5,
            initializer_range: 0.02,
            tie_word_embeddings: false,
            use_qkv_bias: false,
            use_parallel_residual: false,
            hidden_dropout: 0.0,
            attention_dropout: 0.0,
            qk_layernorm: false,
            hidden_act: "silu".to_owned(),
            rope_parameters: Rope::default(),
            rope_theta: None,
            partial_rotary_factor: None,
            rope_scaling: Value::Null,
        }
    }
}

impl Architecture {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// A key of a wrong type, or mathematics that is not here; the message names the key.
    pub fn read(config: &Value) -> Result<Self> {
        let refuse = |what: String| Err(Error::input(format!("config.json: {what}")));
        let architecture: Self = match serde_json::from_value(config.clone()) {
            Ok(architecture) => architecture,
            Err(error) => return refuse(error.to_string()),
        };
        let Self { hidden_size, num_attention_heads: heads, num_key_value_heads: groups, .. } = architecture;
        if architecture.hidden_act != "silu" {
            return refuse(format!("hidden_act is {:?}; only \"silu\" is here", architecture.hidden_act));
        }
        if heads == 0 || hidden_size % heads != 0 {
            return refuse(format!("num_attention_heads, {heads}, does not divide hidden_size, {hidden_size}"));
        }
        if groups == 0 || heads % groups != 0 {
            return refuse(format!("num_key_value_heads, {groups}, does not divide num_attention_heads, {heads}"));
        }
        if architecture.qk_layernorm {
            return refuse("qk_layernorm is true, which is not implemented".to_owned());
        }
        let kind = architecture.rope_parameters.rope_type.as_deref();
        if kind.is_some_and(|kind| kind != "default") || !architecture.rope_scaling.is_null() {
            return refuse("scaled positions (rope_scaling, rope_parameters.rope_type) are not implemented".to_owned());
        }
        let (rotated, head_dim) = (architecture.rotated(), architecture.head_dim());
        if rotated == 0 || rotated % 2 != 0 || rotated > head_dim {
            return refuse(format!("partial_rotary_factor: {rotated} features of {head_dim} would be rotated"));
        }
        Ok(architecture)
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// How many features of each head are rotated.
    pub fn rotated(&self) -> usize {
        let part = self.rope_parameters.partial_rotary_factor.or(self.partial_rotary_factor).unwrap_or(0.25);
        (self.head_dim() as f64 * part) as usize
    }

    /// Radians per position, `[rotated / 2]`.
    pub fn inverse_frequencies(&self) -> Vec<f32> {
        let theta = self.rope_parameters.rope_theta.or(self.rope_theta).unwrap_or(10_000.0);
        let frequency = |feature: usize| (1.0 / theta.powf((2 * feature) as f64 / self.rotated() as f64)) as f32;
        (0..self.rotated() / 2).map(frequency).collect()
    }
}
