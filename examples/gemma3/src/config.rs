//! What is read of a `config.json`, as transformers 4 and 5 write it.

use mdt_plugin_api::serde::Deserialize;
use mdt_plugin_api::serde_json::{self, Value};
use mdt_plugin_api::{Error, Result};

/// The keys; an absent one has the default of `Gemma3TextConfig` in transformers.
#[derive(Deserialize)]
#[serde(crate = "mdt_plugin_api::serde", default)]
pub struct Architecture {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub rms_norm_eps: f64,
    pub initializer_range: f64,
    pub query_pre_attn_scalar: f64,
    pub tie_word_embeddings: bool,
    pub final_logit_softcapping: Option<f64>,
    num_hidden_layers: usize,
    hidden_activation: String,
    sliding_window: usize,
    /// Every so many layers, one sees everything, where `layer_types` does not say it.
    #[serde(alias = "_sliding_window_pattern")]
    sliding_window_pattern: usize,
    layer_types: Option<Vec<String>>,
    /// transformers 5: positions of either kind of layer.
    rope_parameters: Option<RopeParameters>,
    /// transformers 4: those of layers that see everything, their scaling, and those of the others.
    rope_theta: f64,
    rope_scaling: Option<Rope>,
    rope_local_base_freq: f64,
    /// Made of the keys above.
    #[serde(skip)]
    pub layers: Vec<Layer>,
}

/// What layers differ in.
pub struct Layer {
    /// How many tokens it sees, its own included; all where that is `None`.
    pub window: Option<usize>,
    /// Radians per position, `[head_dim / 2]`.
    pub inverse_frequencies: Vec<f32>,
}

#[derive(Deserialize)]
#[serde(crate = "mdt_plugin_api::serde")]
struct RopeParameters {
    full_attention: Rope,
    sliding_attention: Rope,
}

#[derive(Clone, Deserialize)]
#[serde(crate = "mdt_plugin_api::serde")]
struct Rope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
}

impl Default for Architecture {
    fn default() -> Self {
        Self {
            vocab_size: 262_208,
            hidden_size: 2304,
            intermediate_size: 9216,
            num_attention_heads: 8,
            num_key_value_heads: 4,
            head_dim: 256,
            rms_norm_eps: 1e-6,
            initializer_range: 0.02,
            query_pre_attn_scalar: 256.0,
            tie_word_embeddings: true,
            final_logit_softcapping: None,
            num_hidden_layers: 26,
            hidden_activation: "gelu_pytorch_tanh".to_owned(),
            sliding_window: 4096,
            sliding_window_pattern: 6,
            layer_types: None,
            rope_parameters: None,
            rope_theta: 1_000_000.0,
            rope_scaling: None,
            rope_local_base_freq: 10_000.0,
            layers: Vec::new(),
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
        let mut architecture: Self = match serde_json::from_value(config.clone()) {
            Ok(architecture) => architecture,
            Err(error) => return refuse(error.to_string()),
        };
        let Self { hidden_activation, num_attention_heads: heads, num_key_value_heads: groups, .. } = &architecture;
        if hidden_activation != "gelu_pytorch_tanh" {
            return refuse(format!("hidden_activation is {hidden_activation:?}; only \"gelu_pytorch_tanh\" is here"));
        }
        if *groups == 0 || heads % groups != 0 {
            return refuse(format!("num_key_value_heads, {groups}, does not divide num_attention_heads, {heads}"));
        }
        for key in ["attention_bias", "use_bidirectional_attention"] {
            if config.get(key).and_then(Value::as_bool) == Some(true) {
                return refuse(format!("{key} is true, which is not implemented"));
            }
        }
        architecture.layers =
            (0..architecture.num_hidden_layers).map(|number| architecture.layer(number)).collect::<Result<_>>()?;
        Ok(architecture)
    }

    fn layer(&self, number: usize) -> Result<Layer> {
        let local = match &self.layer_types {
            Some(types) => types.get(number).map(String::as_str) == Some("sliding_attention"),
            None => !(number + 1).is_multiple_of(self.sliding_window_pattern.max(1)),
        };
        let rope = match (&self.rope_parameters, local) {
            (Some(rope), true) => rope.sliding_attention.clone(),
            (Some(rope), false) => rope.full_attention.clone(),
            (None, true) => Rope { rope_type: None, rope_theta: Some(self.rope_local_base_freq), factor: None },
            (None, false) => {
                let scaling = self.rope_scaling.clone();
                let plain = Rope { rope_type: None, rope_theta: None, factor: None };
                Rope { rope_theta: Some(self.rope_theta), ..scaling.unwrap_or(plain) }
            }
        };
        let factor = match rope.rope_type.as_deref().unwrap_or("default") {
            "default" => 1.0,
            "linear" => rope.factor.unwrap_or(1.0),
            other => {
                return Err(Error::input(format!("config.json: rope_type is {other:?}; default and linear are here")));
            }
        };
        let theta = rope.rope_theta.unwrap_or(10_000.0);
        let frequency = |feature: usize| {
            let exponent = (2 * feature) as f32 / self.head_dim as f32;
            (1.0 / theta.powf(f64::from(exponent)) / factor) as f32
        };
        Ok(Layer {
            window: local.then_some(self.sliding_window),
            inverse_frequencies: (0..self.head_dim / 2).map(frequency).collect(),
        })
    }
}
