//! `state.json` and `manifest.json` of a checkpoint.

use crate::exit::Failure;
use crate::storage::{Written, unreadable};
use crate::training_format::RowForm;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The version of the format of both files. It changes when an older program would misread a newer checkpoint.
const FORMAT: u64 = 1;

/// `state.json`: the state of a run, beside its arrays.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Updates that are done. The next one is this plus one.
    pub update: u64,
    /// The configuration, as `Resolved::canonical` gives it.
    pub config: Value,
    /// The keys of it that had their default value. A later version that lacks one of them continues the same job.
    #[serde(default)]
    pub defaults: Vec<String>,
    /// Fingerprint of the training data.
    pub data: String,
    /// The commit of each data set of the hub that it was read from, as `hf://org/name@COMMIT`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revisions: Vec<String>,
    /// The components that computed it, each as `optimizer adamw 0.1.0`.
    pub components: Vec<String>,
    /// The build of each, as `optimizer/adamw`: the name of its sources, or the checksum of its file where it has none.
    #[serde(default)]
    pub builds: BTreeMap<String, String>,
    /// The processor that computed it, as far as bits depend on it: instruction set, libraries and their kernels. Empty
    /// if an earlier version of this program wrote the checkpoint.
    #[serde(default)]
    pub processor: String,
    /// Checksum of the weights that are not trained; empty where all are.
    #[serde(default)]
    pub frozen: String,
    /// Whether its comm plugin added by the pairwise tree, so that another number of ranks has the same sums.
    #[serde(default = "by_the_tree")]
    pub by_the_tree: bool,
    /// The directory of the model that it was trained from, whole; empty if an earlier version of this program wrote the
    /// checkpoint.
    #[serde(default)]
    pub model: String,
    /// How the adapter is used, as [`crate::model::Adapter::use_of`] gives it; null without one.
    #[serde(default)]
    pub adapter: Value,
    /// How the configuration changed between the runs of the job that led here, the earliest change first.
    #[serde(default)]
    pub history: Vec<Changed>,
    /// The forms of the job's rows.
    #[serde(default)]
    pub rows: Vec<RowForm>,
    /// The texts of the templates that it configures, by their keys: their files may change.
    #[serde(default)]
    pub templates: BTreeMap<String, String>,
    /// Length of `metrics.jsonl` after the line of this update.
    pub metrics_bytes: u64,
    /// What else the training loop keeps, such as its evaluations. Only the loop reads it.
    #[serde(default)]
    pub progress: Value,
}

/// A configuration that changed when a run went on from a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Changed {
    /// Updates that were done by then.
    pub after: u64,
    /// The keys that changed, with their values before and since; null where it was unset.
    pub keys: BTreeMap<String, [Value; 2]>,
}

/// What the plugins of earlier versions did.
fn by_the_tree() -> bool {
    true
}

/// `manifest.json`: the size and checksum of every other file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) update: u64,
    pub(super) files: BTreeMap<String, Written>,
}

/// The text of a file with this content and the version of the format.
pub(super) fn to_json(content: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Versioned<'a, T> {
        format: u64,
        #[serde(flatten)]
        content: &'a T,
    }
    let mut text = serde_json::to_vec_pretty(&Versioned { format: FORMAT, content })?;
    text.push(b'\n');
    Ok(text)
}

/// Reads a file that [`to_json`] made.
pub(super) fn from_json<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let damaged = |cause: &dyn std::fmt::Display| unreadable("a file of the checkpoint is damaged", path, cause);
    let text = fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => unreadable("the checkpoint is not complete", path, "the file is missing"),
        _ => unreadable("a file of the checkpoint cannot be read", path, error),
    })?;
    let value: Value = serde_json::from_slice(&text).map_err(|error| damaged(&error))?;
    match value.get("format").and_then(Value::as_u64) {
        Some(FORMAT) => serde_json::from_value(value).map_err(|error| damaged(&error)),
        Some(other) => Err(damaged(&format!("its format is {other}, this program knows {FORMAT}"))
            .help("it was written by another version of mdt-host: resume with that one")),
        None => Err(damaged(&"it has no `format`")),
    }
}
