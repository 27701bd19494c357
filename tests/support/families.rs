//! The fixtures of `tests/fixtures/families`: a small model of each family.

use std::path::PathBuf;

use crate::{LoadedModel, example_plugin, root};

/// Their names.
pub const NAMES: [&str; 19] = [
    "gemma",
    "gemma2",
    "gemma3",
    "gpt2",
    "gpt_neox",
    "granite",
    "mistral_window",
    "mixtral",
    "olmo2",
    "phi3",
    "phi3_long",
    "qwen2_window",
    "qwen3_moe",
    "qwen3_moe_sparse",
    "qwen3_window",
    "smollm3",
    "smollm3_window",
    "stablelm",
    "starcoder2",
];

/// The example whose plugin this one needs, where the built-in ones do not have it.
pub fn example(name: &str) -> Option<&str> {
    ["gpt_neox", "stablelm"].contains(&name).then_some(name)
}

/// A file of one of them.
pub fn file(name: &str, file: &str) -> PathBuf {
    root().join("tests/fixtures/families").join(name).join(file)
}

/// The model.
pub fn open(name: &str) -> LoadedModel {
    open_at(name, &file(name, "model"))
}

/// Another directory with a model of its kind.
pub fn open_at(name: &str, directory: &std::path::Path) -> LoadedModel {
    match example(name) {
        Some(example) => LoadedModel::open_with(directory, &example_plugin(example)),
        None => LoadedModel::open(directory),
    }
}
