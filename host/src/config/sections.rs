//! The host's own keys as types, with their meanings, units and defaults.
//!
//! A section that chooses a component by `use` also has that component's own keys. The defaults are the `Default`
//! implementations and the JSON Schema is derived, so both always agree with the types.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::patterns::matches;

mod adapter;
mod compute;
mod data;
mod model;
mod observer;
mod scheduler;
mod storage;

pub use adapter::{Adapter, AdapterFormat, AdapterKind};
pub use compute::{Comm, Compute, Dtype, GradientDtype};
pub use data::{CacheDirectory, Data, EvalSplit, OnBadRow, Source};
pub use model::{Init, Model, Quantize};
pub use observer::Observer;
pub use scheduler::{Constant, Decay, Polynomial, Scheduler, Wsd};
pub use storage::{Checkpoint, ExportDtype, Exported, Metrics, Plugins, Resume};

/// Every key that the host itself reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Settings {
    /// Directory for checkpoints, metrics and the final model. Default: `outputs`.
    #[schemars(length(min = 1))]
    pub output_dir: PathBuf,
    /// Seed of the row order, of dropout and of random weights. Default: 0.
    pub seed: u64,
    /// The model that is trained.
    pub model: Model,
    /// The examples that it is trained on.
    pub data: Data,
    /// How text becomes tokens.
    pub tokenizer: Tokenizer,
    /// The training objective, the batch sizes and the length of training.
    pub trainer: Trainer,
    /// How gradients change parameters.
    pub optimizer: Optimizer,
    /// How the learning rate changes over the updates.
    pub scheduler: Scheduler,
    /// How ranks exchange gradients.
    pub comm: Comm,
    /// The compute component, its device and precision.
    pub compute: Compute,
    /// When checkpoints are written, and what a run starts from.
    pub checkpoint: Checkpoint,
    /// How often a line of metrics is written.
    pub metrics: Metrics,
    /// What is told of the run, each as a name or as a table with `use` and its own keys: training never waits for it. Default: none.
    pub observers: Vec<Observer>,
    /// Where plugins are searched for.
    pub plugins: Plugins,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            output_dir: "outputs".into(),
            seed: 0,
            model: Model::default(),
            data: Data::default(),
            tokenizer: Tokenizer::default(),
            trainer: Trainer::default(),
            optimizer: Optimizer::default(),
            scheduler: Scheduler::default(),
            comm: Comm::default(),
            compute: Compute::default(),
            checkpoint: Checkpoint::default(),
            metrics: Metrics::default(),
            observers: Vec::new(),
            plugins: Plugins::default(),
        }
    }
}

/// `tokenizer`: a string stands for `{ use = … }`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Tokenizer {
    /// The tokenizer component. Default: `huggingface`.
    #[serde(rename = "use")]
    pub id: String,
}

impl Default for Tokenizer {
    fn default() -> Self {
        Tokenizer { id: "huggingface".into() }
    }
}

/// `trainer`: a string stands for `{ use = … }`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Trainer {
    /// The trainer component: examples to batches, batches to a loss. Default: `sft`.
    #[serde(rename = "use")]
    pub id: String,
    /// Rows per rank and micro-step. Default: 8.
    #[schemars(range(min = 1))]
    pub batch_size: u32,
    /// Passes over the training data, used if `max_steps` is unset. Default: 1.
    #[schemars(range(min = 1))]
    pub num_epochs: u32,
    /// Number of updates. It overrides `num_epochs`. Default: unset.
    #[schemars(range(min = 1))]
    pub max_steps: Option<u64>,
    /// Micro-steps per update. Default: 1.
    #[schemars(range(min = 1))]
    pub gradient_accumulation_steps: u32,
    /// Longest row in tokens. `long_rows` says what becomes of longer ones. Default: 2048.
    #[schemars(range(min = 2))]
    pub max_seq_len: u32,
    /// What becomes of rows that are longer than `max_seq_len`; they are counted. Default: `cut`.
    pub long_rows: LongRows,
    /// Gradients with a larger global norm are scaled down to this norm; 0 turns clipping off. Default: 1.0.
    #[schemars(range(min = 0.0))]
    pub max_grad_norm: f64,
    /// Which layers are computed again for gradients instead of keeping what lies inside of them: less memory, and about a
    /// third more time. The bits stay the same. Default: `auto`.
    pub checkpoint_activations: CheckpointActivations,
    /// Further models that the trainer uses and does not train, by the names that it knows: `{ teacher = { path = "DIR" } }`.
    /// Default: none.
    pub models: BTreeMap<String, FrozenModel>,
    /// Updates between evaluations on the held-out rows; 0 evaluates at the end of each epoch. Default: 0.
    pub eval_steps: u64,
    /// Whether the held-out rows are also evaluated before the first update. That loss is only for comparison: it is
    /// never the best, and early stopping does not count it. Default: false.
    pub eval_at_start: bool,
    /// Training ends after this many evaluations in a row without an improvement; 0 never ends it early. Default: 0.
    pub early_stopping_patience: u32,
    /// A held-out loss is an improvement if it is lower than the last one by more than this. Default: 0.0.
    #[schemars(range(min = 0.0))]
    pub early_stopping_min_delta: f64,
    /// Whether micro-batches are of rows of like length, so that less is padding: the rows of 16 updates at a time, as
    /// they come in the order of their epoch, are put together anew. Not where rows stream. Default: false.
    pub bucketing: bool,
    /// Whether short items share a row of a micro-batch, so that less is padding. `batch_size` and `plan` count packed rows
    /// then; of items that a trainer prepares, `batch_size` counts rows before. Not where rows stream, and not in
    /// evaluations. Default: `none`.
    pub packing: Packing,
}

/// What becomes of rows that are longer than `max_seq_len`. What a trainer prepares while it trains is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LongRows {
    /// They are cut at the right.
    #[default]
    Cut,
    /// They are left out.
    Drop,
    /// They are split into pieces of up to `max_seq_len` tokens, in which each token is trained once. A piece does not see
    /// those before. Not for trainers whose items are more than one sequence of tokens.
    Split,
}

/// Which layers are computed again for gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CheckpointActivations {
    /// None where the job fits into memory so, else all.
    #[default]
    Auto,
    /// All: only what enters a layer is kept.
    All,
    /// None.
    None,
}

impl CheckpointActivations {
    /// Whether layers are computed again, where memory is large enough.
    pub fn recomputes(self) -> bool {
        match self {
            Self::All => true,
            Self::Auto | Self::None => false,
        }
    }
}

/// How items are packed into rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// Each item has a row of its own.
    #[default]
    None,
    /// Rows of up to `max_seq_len` tokens by best fit by falling length, of 1024 rows of the data at a time in an order
    /// by `seed`. No item sees another one.
    BestFit,
}

impl Default for Trainer {
    fn default() -> Self {
        Trainer {
            id: "sft".into(),
            batch_size: 8,
            num_epochs: 1,
            max_steps: None,
            gradient_accumulation_steps: 1,
            max_seq_len: 2048,
            long_rows: LongRows::Cut,
            max_grad_norm: 1.0,
            checkpoint_activations: CheckpointActivations::Auto,
            models: BTreeMap::new(),
            eval_steps: 0,
            eval_at_start: false,
            early_stopping_patience: 0,
            early_stopping_min_delta: 0.0,
            bucketing: false,
            packing: Packing::None,
        }
    }
}

/// A model that is not trained.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FrozenModel {
    /// Directory of the model in Hugging Face format.
    #[schemars(length(min = 1))]
    pub path: PathBuf,
}

/// `optimizer`: a string stands for `{ use = … }`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Optimizer {
    /// The optimizer component. Default: `adamw`.
    #[serde(rename = "use")]
    pub id: String,
    /// Peak learning rate. Default: 1e-4.
    #[schemars(range(min = 0.0))]
    pub learning_rate: f64,
    /// Weight decay, as PyTorch defines it for the chosen optimizer. Default: 0.0.
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
    /// Patterns (`*` any characters, `?` one) of parameter names that do not decay. Default: none.
    pub no_decay: Vec<String>,
    /// Groups of parameters with a learning rate or a weight decay of their own. A parameter belongs to the first group
    /// that matches its name; a pattern that matches none is an error. Default: none.
    pub groups: Vec<Group>,
}

/// Parameters with a learning rate or a weight decay of their own.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Group {
    /// Patterns (`*` any characters, `?` one) of parameter names.
    #[serde(rename = "match")]
    pub patterns: Vec<String>,
    /// Their peak learning rate, which the schedule changes as it changes `optimizer.learning_rate`. Default: that one.
    #[schemars(range(min = 0.0))]
    pub learning_rate: Option<f64>,
    /// Their weight decay, also where `no_decay` names them. Default: as without the group.
    #[schemars(range(min = 0.0))]
    pub weight_decay: Option<f64>,
}

impl Default for Optimizer {
    fn default() -> Self {
        Optimizer {
            id: "adamw".into(),
            learning_rate: 1e-4,
            weight_decay: 0.0,
            no_decay: Vec::new(),
            groups: Vec::new(),
        }
    }
}

impl Optimizer {
    /// The group of the parameter called `name`, if it belongs to one.
    fn group_of(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.patterns.iter().any(|pattern| matches(pattern, name)))
    }

    /// The peak learning rate of the parameter called `name`.
    pub fn learning_rate_of(&self, name: &str) -> f64 {
        self.group_of(name).and_then(|group| group.learning_rate).unwrap_or(self.learning_rate)
    }

    /// The weight decay of the parameter called `name`: its group's, else 0 where a pattern of `no_decay` matches it.
    pub fn weight_decay_of(&self, name: &str) -> f64 {
        let spared = self.no_decay.iter().any(|pattern| matches(pattern, name));
        let otherwise = if spared { 0.0 } else { self.weight_decay };
        self.group_of(name).and_then(|group| group.weight_decay).unwrap_or(otherwise)
    }

    /// A pattern of a group that matches none of these names.
    pub fn unused_pattern<'a>(&self, names: impl Iterator<Item = &'a str> + Clone) -> Option<&str> {
        let mut patterns = self.groups.iter().flat_map(|group| &group.patterns);
        patterns.find(|pattern| !names.clone().any(|name| matches(pattern, name))).map(String::as_str)
    }
}
