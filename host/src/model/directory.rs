//! A model's directory in the Hugging Face form: `config.json`, safetensors files, the tokenizer's files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mdt_plugin_api::Dtype;
use serde_json::Value;

use super::packing::Quantization;
use super::source::{self, Source};
use crate::checkpoint::Checkpoint;
use crate::exit::{Failure, Status};
use crate::hub;
use crate::text_file;

/// A directory with a readable `config.json`.
///
/// A checkpoint is the directory of its model with other weights; an adapter is that of its model, and what is beside it.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
    config: Value,
    /// What was opened.
    named: PathBuf,
    /// The checkpoints whose parameters take the place of those in the files, the last one first.
    checkpoints: Vec<Arc<Checkpoint>>,
    /// The seed of all weights that no checkpoint has, where training began with random ones.
    drawn: Option<u64>,
    /// The adapter that it was opened by.
    adapter: Option<PathBuf>,
}

impl Directory {
    /// The type of its weights, as its config says; `None` where that says nothing, or no floating-point type.
    pub fn dtype(&self) -> Option<Dtype> {
        let name = ["dtype", "torch_dtype"].into_iter().find_map(|key| self.config.get(key)?.as_str())?;
        Dtype::from_name(name.strip_prefix("torch.").unwrap_or(name))
            .filter(|dtype| dtype.is_float() && dtype.size() < 8)
    }

    /// Opens a model's directory, a checkpoint, an adapter with its model, or the output directory of a job.
    ///
    /// # Errors
    /// There is none, or its `config.json` is missing or no JSON object; a checkpoint is not complete; the model that something
    /// was trained from is not there.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        match Source::of(path)? {
            Source::Model(path) => Self::open_model(&path),
            Source::Adapter(path) => {
                let base = Self::open(&source::base_of_adapter(&path)?)?;
                Ok(Self { adapter: Some(path.clone()), named: path, ..base })
            }
            Source::Checkpoint(checkpoint) => {
                let named = checkpoint.path.clone();
                Ok(Self { named, ..Self::of_checkpoint(*checkpoint)? })
            }
        }
    }

    fn of_checkpoint(checkpoint: Checkpoint) -> Result<Self, Failure> {
        let mut base = Self::open(&source::base_of(&checkpoint)?)?;
        let config = &checkpoint.state.config;
        if config["model"]["init"] == "random" {
            base = Self { drawn: Some(config["seed"].as_u64().unwrap_or_default()), ..base.without_checkpoints() };
        }
        if !checkpoint.state.adapter.is_null() {
            return Ok(Self { adapter: Some(checkpoint.path), ..base });
        }
        base.checkpoints.insert(0, Arc::new(checkpoint));
        Ok(base)
    }

    fn open_model(path: &Path) -> Result<Self, Failure> {
        let input = |message: &str| Failure::new(Status::Input, message.to_owned());
        if !path.is_dir() {
            let message =
                if path.exists() { "the model is not a directory" } else { "the model directory does not exist" };
            return Err(input(message)
                .at(path.display())
                .help(
                    "`model.path` names a directory with config.json, *.safetensors and tokenizer.json, a checkpoint or the output \
                     directory of a job; `model.name` is a model of the Hugging Face Hub, `org/name`",
                ));
        }
        let file = path.join("config.json");
        let text = text_file::read_of_model(&file)
            .map_err(|error| input("the model's config.json cannot be read").at(file.display()).because(error))?;
        let config: Value = serde_json::from_str(&text)
            .map_err(|error| input("the model's config.json is not valid JSON").at(file.display()).because(error))?;
        if !config.is_object() {
            return Err(input("the model's config.json is not a JSON object").at(file.display()));
        }
        let path = path.to_owned();
        Ok(Self { named: path.clone(), path, config, checkpoints: Vec::new(), drawn: None, adapter: None })
    }

    /// The path by which it was opened.
    pub fn named(&self) -> &Path {
        &self.named
    }

    /// The whole path of what was opened, by which others find it again.
    pub fn place(&self) -> String {
        std::fs::canonicalize(&self.named).unwrap_or_else(|_| self.named.clone()).to_string_lossy().into_owned()
    }

    /// The checkpoints whose parameters take the place of those in its files, the last one first.
    pub fn checkpoints(&self) -> &[Arc<Checkpoint>] {
        &self.checkpoints
    }

    /// The seed of all weights that no checkpoint has; none where files have them.
    pub fn drawn(&self) -> Option<u64> {
        self.drawn
    }

    /// The adapter that it was opened by.
    pub fn adapter(&self) -> Option<&Path> {
        self.adapter.as_deref()
    }

    /// The same as its files have it.
    #[must_use]
    pub fn without_checkpoints(&self) -> Self {
        Self { checkpoints: Vec::new(), ..self.clone() }
    }

    /// The same as it was before the training that wrote its last checkpoint.
    #[must_use]
    pub fn before_training(&self) -> Self {
        Self { checkpoints: self.checkpoints.iter().skip(1).cloned().collect(), ..self.clone() }
    }

    /// Where its files lie.
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
/// The directory cannot be read; a model of the hub is not in its cache.
pub fn model_type(path: Option<&str>, name: Option<(&str, Option<&str>)>) -> Result<String, Failure> {
    match (path, name) {
        (Some(path), _) => Directory::open(Path::new(path))?.model_type(),
        (None, Some((name, revision))) => Directory::open(&in_cache(name, revision, false)?)?.model_type(),
        (None, None) => Err(Failure::internal()),
    }
}

/// Where the cache of the hub has a model, with its weights or without.
///
/// # Errors
/// It does not have it.
pub fn in_cache(name: &str, revision: Option<&str>, weights: bool) -> Result<PathBuf, Failure> {
    if Path::new(name).is_dir() && !hub::is_name(name) {
        return Err(Failure::configuration(format!("`model.name` is {name:?}, which is a directory here"))
            .help("set `model.path` to it instead: `model.name` is that of a model on the Hugging Face Hub"));
    }
    hub::cached(hub::Kind::Model, name, revision, &hub::Wanted::Model { weights })?.ok_or_else(|| {
        Failure::new(Status::Input, format!("the model {name} of the Hugging Face Hub is not in the cache"))
            .help("a run downloads it, and so do `generate`, `chat`, `evaluate`, `fuse` and `export`")
    })
}
