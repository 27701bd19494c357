//! `model`: what is trained.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Adapter;
use crate::exit::Failure;
use crate::model;

/// `model`: a string stands for `{ path = … }`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Model {
    /// The model component. Default: the one for the `model_type` in the model's `config.json`.
    #[serde(rename = "use")]
    pub id: Option<String>,
    /// Directory of the model in Hugging Face format. Default: unset.
    #[schemars(length(min = 1))]
    pub path: Option<PathBuf>,
    /// Name of a model on the Hugging Face Hub, `org/name`, used if `path` is unset. What is not in the cache of the hub yet is
    /// downloaded (`HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` mean what they always do).
    /// Default: unset.
    #[schemars(length(min = 1))]
    pub name: Option<String>,
    /// The branch, tag or commit of `name`. What the cache has of a branch is used as it is: it moves when that is deleted.
    /// Default: `main`.
    #[schemars(length(min = 1))]
    pub revision: Option<String>,
    /// Where the weights come from. Default: `pretrained`.
    pub init: Init,
    /// How the layers that are not trained are quantised when they are loaded: `{ bits = 4, group_size = 64 }`. Those of a model
    /// that is quantised already stay as they are. Default: unset.
    pub quantize: Option<Quantize>,
    /// Patterns (`*` any characters, `?` one) of the names of parameters that are not trained. A parameter with two names, such
    /// as a tied head, is meant by either. A pattern that matches none is an error. Default: none.
    pub freeze: Vec<String>,
    /// Patterns of the names of parameters that are trained, and no others, as in `freeze`, which takes out of these.
    /// Default: all.
    pub train: Option<Vec<String>>,
    /// An adapter that is trained in the place of the model's own weights, which stay as they are: `"lora"`, `"dora"`, or a table.
    /// Default: none.
    pub adapter: Option<Adapter>,
}

/// `model.quantize`: MLX's affine quantisation of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Quantize {
    /// Bits of an element: 2, 3, 4, 5, 6 or 8. Default: 4.
    #[schemars(range(min = 2, max = 8))]
    pub bits: u8,
    /// Elements that share a scale and a bias: 32, 64 or 128. Default: 64.
    #[schemars(range(min = 32, max = 128))]
    pub group_size: u8,
}

impl Default for Quantize {
    fn default() -> Self {
        Quantize { bits: 4, group_size: 64 }
    }
}

impl Quantize {
    /// The same for the device.
    ///
    /// # Errors
    /// It computes with no such weights.
    pub fn packing(self) -> Result<model::Packing, Failure> {
        let packing = model::Packing { bits: self.bits.into(), group_size: self.group_size.into() };
        match packing.is_known() {
            true => Ok(packing),
            false => Err(Failure::configuration(format!("`model.quantize` asks for {packing}"))
                .help("`bits` may be 2, 3, 4, 5, 6 or 8, and `group_size` 32, 64 or 128")),
        }
    }
}

/// Where the weights of the model come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// Read from the model's safetensors files.
    #[default]
    Pretrained,
    /// Drawn at random from `seed`; only `config.json` and the tokenizer's files are read.
    Random,
}
