//! A model's directory in the Hugging Face form: `config.json`, safetensors files, the tokenizer's files.

use std::path::{Path, PathBuf};

use mdt_plugin_api::Dtype;
use serde_json::Value;

use super::ADAPTER_CONFIG;
use super::packing::Quantization;
use crate::exit::{Failure, Status};
use crate::text_file;

/// A directory with a readable `config.json`.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
    config: Value,
}

impl Directory {
    /// The type of its weights, as its config says; `None` where that says nothing, or no floating-point type.
    pub fn dtype(&self) -> Option<Dtype> {
        let name = ["dtype", "torch_dtype"].into_iter().find_map(|key| self.config.get(key)?.as_str())?;
        Dtype::from_name(name.strip_prefix("torch.").unwrap_or(name))
            .filter(|dtype| dtype.is_float() && dtype.size() < 8)
    }

    /// Opens a model's directory.
    ///
    /// # Errors
    /// There is none, or its `config.json` is missing or no JSON object.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let input = |message: &str| Failure::new(Status::Input, message.to_owned());
        if !path.is_dir() {
            let message =
                if path.exists() { "the model is not a directory" } else { "the model directory does not exist" };
            return Err(input(message)
                .at(path.display())
                .help("`model.path` names a directory with config.json, *.safetensors and tokenizer.json"));
        }
        let file = path.join("config.json");
        let text = text_file::read_of_model(&file).map_err(|error| {
            let failure = input("the model's config.json cannot be read").at(file.display()).because(error);
            match path.join(ADAPTER_CONFIG).exists() {
                true => failure
                    .help("this is an adapter: name its model here, and it with `model.adapter.path` or --adapter"),
                false => failure,
            }
        })?;
        let config: Value = serde_json::from_str(&text)
            .map_err(|error| input("the model's config.json is not valid JSON").at(file.display()).because(error))?;
        if !config.is_object() {
            return Err(input("the model's config.json is not a JSON object").at(file.display()));
        }
        Ok(Self { path: path.to_owned(), config })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its `config.json`.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Whether its weights are quantised as MLX has it.
    pub fn is_quantised(&self) -> bool {
        matches!(Quantization::of(&self.config), Some(Quantization::Affine { .. }))
    }

    /// The `model_type` of its `config.json`, which is the id of the model component that reads it.
    ///
    /// # Errors
    /// There is none.
    pub fn model_type(&self) -> Result<String, Failure> {
        self.config.get("model_type").and_then(Value::as_str).map(str::to_owned).ok_or_else(|| {
            Failure::new(Status::Input, "the model's config.json has no `model_type`")
                .at(self.path.join("config.json").display())
                .help("name the model component with `model.use`")
        })
    }
}

/// The id of the model component for a configured model.
///
/// # Errors
/// The directory cannot be read, or only a name is given: models are read from directories.
pub fn model_type(path: Option<&str>, name: Option<&str>) -> Result<String, Failure> {
    match (path, name) {
        (Some(path), _) => Directory::open(Path::new(path))?.model_type(),
        (None, name) => Err(not_downloaded(name.unwrap_or_default())),
    }
}

/// The error for a model that is given by name only.
pub fn not_downloaded(name: &str) -> Failure {
    let message = format!("`model.name` is {name:?}, a model of the Hugging Face Hub, and this version downloads none");
    let failure = Failure::configuration(message);
    if Path::new(name).is_dir() {
        return failure
            .help(format!("there is a directory {name:?}: if it is the model, set `model.path` to it instead"));
    }
    failure.help(format!("download it (`hf download {name} --local-dir DIR`) and set `model.path` to DIR"))
}
