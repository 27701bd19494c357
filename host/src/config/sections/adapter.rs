//! `model.adapter`: small matrices that are trained beside frozen weights.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `model.adapter`: a string stands for `{ kind = … }`. Keys have the meanings and the defaults that they have in peft, where it
/// has them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Adapter {
    /// What is added to a layer. Default: `lora`.
    pub kind: Option<AdapterKind>,
    /// Directory of an adapter to begin with, as peft or mlx-lm writes it. It says everything else but `dropout` and `format`.
    /// Default: a new adapter.
    #[schemars(length(min = 1))]
    pub path: Option<PathBuf>,
    /// The rank of what is added: `lora_A` is `[rank, in]`, `lora_B` is `[out, rank]`. Default: 8.
    #[schemars(range(min = 1))]
    pub rank: Option<u32>,
    /// What is added is multiplied by `alpha / rank`. Default: 8.0.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub alpha: Option<f64>,
    /// Whether it is multiplied by `alpha / √rank` instead (Kalajdzievski 2023). Default: false.
    pub rslora: Option<bool>,
    /// The part of the adapter's inputs that is set to 0 in training. Embeddings have none. Default: 0.0, or what `path` says.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub dropout: Option<f64>,
    /// The layers that have it: names (`q_proj`, `mlp.up_proj`), patterns, or `all-linear`, which is every linear layer but the
    /// head. Default: `all-linear`.
    pub targets: Option<Vec<String>>,
    /// Only within these layers of the model, by the first number in their names. Default: all.
    pub layers: Option<Vec<usize>>,
    /// Modules that are trained as they are beside the adapter, and saved with it, by names as in `targets`. A tied one is trained
    /// apart from the other. Default: none.
    pub modules_to_save: Option<Vec<String>>,
    /// How the trained adapter is written. Default: `peft`, or what `path` is.
    pub format: Option<AdapterFormat>,
}

/// What an adapter adds to a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AdapterKind {
    /// A product of two small matrices (Hu et al. 2021).
    #[default]
    Lora,
    /// The same, and a magnitude for each output in the place of the norm of its weights (Liu et al. 2024).
    Dora,
}

/// Whose files an adapter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AdapterFormat {
    /// `adapter_config.json` and `adapter_model.safetensors`, as peft has them.
    #[default]
    Peft,
    /// `adapter_config.json` and `adapters.safetensors`, as mlx-lm has them.
    Mlx,
}
