//! What is read of a `config.json`, as transformers 5 writes it.

use mdt_plugin_api::serde::Deserialize;
use mdt_plugin_api::serde_json::{self, Value};
use mdt_plugin_api::{Error, Result};

/// The keys.
#[derive(Deserialize)]
#[serde(crate = "mdt_plugin_api::serde")]
pub struct Architecture {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub rms_norm_eps: f64,
    pub num_local_experts: usize,
    pub num_experts_per_tok: usize,
    pub output_router_logits: bool,
    pub router_aux_loss_coef: f64,
    pub rope_parameters: RopeParameters,
}

#[derive(Deserialize)]
#[serde(crate = "mdt_plugin_api::serde")]
pub struct RopeParameters {
    pub rope_theta: f64,
}

impl Architecture {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// A key is missing or of a wrong type.
    pub fn read(config: &Value) -> Result<Self> {
        serde_json::from_value(config.clone()).map_err(|error| Error::input(format!("config.json: {error}")))
    }

    /// Radians per position, `[head_dim / 2]`.
    pub fn inverse_frequencies(&self) -> Vec<f32> {
        let theta = self.rope_parameters.rope_theta;
        let frequency = |feature: usize| {
            let exponent = (2 * feature) as f32 / self.head_dim as f32;
            (1.0 / theta.powf(f64::from(exponent))) as f32
        };
        (0..self.head_dim / 2).map(frequency).collect()
    }
}
