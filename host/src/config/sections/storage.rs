//! `checkpoint`, `metrics` and `plugins`: keys about files, which do not change results.

use crate::config::Origin;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// `checkpoint`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Checkpoint {
    /// Updates between checkpoints; 0 saves at the end only. Default: 100.
    pub save_steps: u64,
    /// Number of newest checkpoints to keep; 0 keeps all. Default: 3.
    pub keep: u32,
    /// Whether the checkpoint with the lowest held-out loss is written and kept too. Default: false.
    pub keep_best: bool,
    /// Which weights are written to `final` at the end. Default: `last`.
    pub export: Exported,
    /// The type of the numbers in `final`: `auto` is that of the model's files, and of its `config.json` where training began with
    /// random weights; else `float32`, `bfloat16` or `float16`. Checkpoints always have float32. Default: `auto`.
    pub export_dtype: ExportDtype,
    /// What a run starts from: `auto` is the newest complete checkpoint in `output_dir` if there is one, `never` the
    /// model as given, any other value is the directory of a checkpoint. Results of another run in `output_dir` are moved
    /// to `earlier-N` in it. Default: `auto`.
    #[schemars(length(min = 1))]
    pub resume: Resume,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Checkpoint {
            save_steps: 100,
            keep: 3,
            keep_best: false,
            export: Exported::Last,
            export_dtype: ExportDtype::Auto,
            resume: Resume::Auto,
        }
    }
}

impl Checkpoint {
    /// Whether the best checkpoint is written and kept, because of `keep_best` or `export`.
    pub fn keeps_best(&self) -> bool {
        self.keep_best || self.export == Exported::Best
    }
}

/// Which weights are exported at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Exported {
    /// Those of the last update.
    #[default]
    Last,
    /// Those with the lowest held-out loss; their checkpoint is kept as with `keep_best`.
    Best,
}

/// The type of the numbers in `final`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExportDtype {
    /// That of the model that training began with.
    #[default]
    Auto,
    /// 32-bit floating point.
    Float32,
    /// The upper half of 32-bit floating point.
    Bfloat16,
    /// 16-bit IEEE floating point.
    Float16,
}

/// What a run starts from; written as one string.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(from = "String", into = "String")]
#[schemars(inline, with = "String")]
pub enum Resume {
    /// The newest complete checkpoint, or the beginning if there is none.
    #[default]
    Auto,
    /// The beginning.
    Never,
    /// The checkpoint in this directory.
    From(PathBuf),
}

impl From<String> for Resume {
    fn from(text: String) -> Self {
        match text.as_str() {
            "auto" => Resume::Auto,
            "never" => Resume::Never,
            _ => Resume::From(text.into()),
        }
    }
}

impl From<Resume> for String {
    fn from(resume: Resume) -> Self {
        match resume {
            Resume::Auto => "auto".into(),
            Resume::Never => "never".into(),
            Resume::From(path) => path.to_string_lossy().into_owned(),
        }
    }
}

/// `metrics`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Metrics {
    /// Number of updates per line of `metrics.jsonl`. Default: 1.
    #[schemars(range(min = 1))]
    pub every: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics { every: 1 }
    }
}

/// `plugins`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Plugins {
    /// Directories that are searched for plugins, after `--plugin-dir` and before `MDT_PLUGIN_PATH`. Default: none.
    pub dirs: Vec<PathBuf>,
    /// Lock file with the checksums that plugins must have. Default: unset.
    #[schemars(length(min = 1))]
    pub lock: Option<PathBuf>,
    /// Components, as `optimizer/lion`, whose files may differ between ranks because you know that they are builds of the same
    /// sources. Where builds name their sources, nobody has to say so. Default: none.
    pub equivalent: Vec<String>,
    /// How many seconds a call into a plugin may take, in which it makes no call itself, before the process ends; 0 waits
    /// for good. Default: 3600.
    pub timeout_s: u64,
    /// The place in a configuration file that alone names `dirs`. None where the command line or the environment names
    /// them, or a lock file for them.
    #[serde(skip)]
    pub dirs_only_in_file: Option<Origin>,
}

impl Default for Plugins {
    fn default() -> Self {
        Plugins { dirs: Vec::new(), lock: None, equivalent: Vec::new(), timeout_s: 3600, dirs_only_in_file: None }
    }
}

impl Plugins {
    /// How long a call into a plugin may take, where that is limited.
    pub fn timeout(&self) -> Option<Duration> {
        (self.timeout_s > 0).then(|| Duration::from_secs(self.timeout_s))
    }
}
