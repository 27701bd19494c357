//! Observers: what they are told of a run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Result;

/// Receives what happens in a run: for dashboards, reports, messages.
///
/// Training never waits for an observer. Each has a thread and a bounded queue of its own: while it is slow, observations
/// that do not fit into the queue are dropped, and the host says at the end how many. One that returns an error or panics
/// is reported once and told nothing more; the run goes on. When a run has ended, an observer has a few seconds to work
/// through what is left in its queue.
///
/// Only rank 0 has observers, unless the configuration says `every_rank = true`.
pub trait Observer: Send {
    /// Called with one observation after the other, in the order in which they happened, always on the same thread. The
    /// last one says how the run ended: [`Event::Finished`], [`Event::Interrupted`] or [`Event::Failed`].
    ///
    /// # Errors
    /// Whatever keeps it from observing further.
    fn observe(&mut self, observation: &Observation) -> Result<()>;
}

/// Something that happened, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// Seconds since 1970-01-01 00:00 UTC, on the clock of the host.
    pub unix_time_s: f64,
    /// What happened.
    pub event: Event,
}

/// What happens in a run. Later versions may have more events: an observer that does not know one gets
/// [`Event::Unknown`], and passes over it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The run begins, or goes on from a checkpoint. Always the first observation.
    Started(Started),
    /// A line of `metrics.jsonl` for an update: `loss`, `grad_norm`, `lr`, `tokens_per_s`, …, and what trainer and plugins
    /// have reported.
    Updated(Metrics),
    /// The held-out rows were evaluated after this update: `eval_loss`, `eval_perplexity`, ….
    Evaluated(Metrics),
    /// An answer that the model has given to a trainer that draws some: the first one of each update and of each evaluation
    /// on this rank.
    Sampled(Sample),
    /// Training ends before its last update, because the held-out loss no longer falls.
    StoppedEarly(Metrics),
    /// A checkpoint was written.
    CheckpointWritten(Written),
    /// The trained model was written.
    FinalWritten(Written),
    /// The run has made all its updates.
    Finished,
    /// The run was interrupted, and can be continued.
    Interrupted,
    /// The run has failed.
    Failed {
        /// What was wrong, in one line.
        message: String,
    },
    /// An event that this version does not know.
    #[serde(other)]
    Unknown,
}

/// What an observer is told at the start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// The resolved configuration, every key with its value.
    pub configuration: Value,
    /// The output directory of the run, in which an observer may create files of its own.
    pub output_dir: String,
    /// The components of the run: `optimizer lion 0.1.0`.
    pub components: Vec<String>,
    /// Updates that were done before, where the run goes on from a checkpoint.
    pub updates_done: u64,
    /// The number of the last update.
    pub updates_planned: u64,
    /// The rank of this process.
    pub rank: u32,
    /// The number of ranks.
    pub world_size: u32,
}

/// Numbers of an update or an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// The number of the last update that is done.
    pub update: u64,
    /// The numbers by their names in `metrics.jsonl`. One that is not finite there is missing here.
    pub values: BTreeMap<String, f64>,
}

/// An answer of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The update that it was drawn for, or the last one before the evaluation.
    pub update: u64,
    /// Whether it was drawn in an evaluation.
    pub evaluation: bool,
    /// What it answers, without special tokens.
    pub prompt: String,
    /// The answer, without special tokens.
    pub answer: String,
}

/// Files that were written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Written {
    /// The number of the last update that is done.
    pub update: u64,
    /// Their directory.
    pub directory: String,
    /// Their names in it, sorted.
    pub files: Vec<String>,
}
