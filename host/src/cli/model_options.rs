//! The options that name a model, which `generate`, `chat`, `evaluate` and others share.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::common::adapter_flags;
use crate::config::Flag;
use crate::hub;
use crate::model::Source;

#[derive(Args, Clone)]
pub(super) struct ModelOptions {
    /// The model: its directory, a checkpoint (`outputs/sft/checkpoints/step-000100`), the output directory of a job, an adapter
    /// that names its model, or the name of a model on the Hugging Face Hub (`org/name`, where there is no such directory). The
    /// default is the configured model.
    #[arg(long, value_name = "DIR", visible_alias = "checkpoint")]
    model: Option<PathBuf>,
    /// An adapter for the model, as a run, peft or mlx-lm wrote it, or a checkpoint of one.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
}

impl ModelOptions {
    /// The keys that they set.
    pub(super) fn flags(&self) -> Vec<Flag> {
        let flag = |key: &str, value| Flag { name: "--model".to_owned(), key: key.to_owned(), value };
        let mut flags = Vec::new();
        let name = self.model.as_ref().and_then(|model| model.to_str()).filter(|name| hub::is_name(name));
        if let Some(name) = name.filter(|name| !Path::new(name).exists()) {
            flags.extend(
                [("path", Value::Null), ("name", json!(name)), ("init", json!("pretrained"))]
                    .map(|(key, value)| flag(&format!("model.{key}"), value)),
            );
        } else if let Some(model) = &self.model {
            flags.extend([flag("model.path", json!(model)), flag("model.init", json!("pretrained"))]);
            // It says itself what was trained.
            if Source::is_other_than_a_model(model) {
                let trained = [("adapter", Value::Null), ("freeze", json!([])), ("train", Value::Null)];
                flags.extend(trained.map(|(key, value)| flag(&format!("model.{key}"), value)));
            }
        }
        flags.extend(self.adapter.iter().flat_map(|adapter| adapter_flags(adapter)));
        flags
    }
}
