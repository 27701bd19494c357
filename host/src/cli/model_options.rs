//! The options that name a model, which `generate`, `chat` and `evaluate` share.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::common::adapter_flags;
use crate::config::Flag;

#[derive(Args, Clone)]
pub(super) struct ModelOptions {
    /// The model's directory; the default is the configured model.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// The directory of an adapter for the model, as peft or mlx-lm writes it.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
}

impl ModelOptions {
    /// The keys that they set.
    pub(super) fn flags(&self) -> Vec<Flag> {
        let flag = |key: &str, value| Flag { name: "--model".to_owned(), key: key.to_owned(), value };
        let model = self
            .model
            .iter()
            .flat_map(|model| [flag("model.path", json!(model)), flag("model.init", json!("pretrained"))]);
        model.chain(self.adapter.iter().flat_map(|adapter| adapter_flags(adapter))).collect()
    }
}
