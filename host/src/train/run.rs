//! The state of a run between two updates.

use std::rc::Rc;
use std::sync::Arc;

use mdt_plugin_api::{Compute, Trainer};

use super::best::Evaluations;
use crate::checkpoint::Store;
use crate::config::Settings;
use crate::data::Dataset;
use crate::fold::Fold;
use crate::gradient::Objective;
use crate::job::Job;
use crate::metrics::Metrics;
use crate::model::{Directory, Parameters};
use crate::peers::Peers;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::schedule::Schedule;
use crate::update::Updater;

/// A training run, between two updates. Compute thread only.
pub struct Run<'a> {
    pub(super) job: &'a Job,
    pub(super) settings: &'a Settings,
    pub(super) directory: Directory,
    pub(super) compute: Rc<dyn Compute>,
    pub(super) trainer: Arc<dyn Trainer>,
    pub(super) peers: Peers,
    pub(super) dataset: Arc<Dataset>,
    pub(super) held_out: Option<Dataset>,
    pub(super) fingerprint: String,
    pub(super) components: Vec<String>,
    pub(super) plan: Plan,
    pub(super) schedule: Schedule,
    pub(super) parameters: Parameters,
    pub(super) objective: Objective,
    pub(super) updater: Updater,
    pub(super) fold: Fold,
    /// Checkpoints and metrics, which only the first rank writes.
    pub(super) store: Option<Store>,
    pub(super) metrics: Option<Metrics>,
    pub(super) progress: Progress,
    /// How many metrics the trainer has, once the ranks have told each other.
    pub(super) number_of_metrics: Option<usize>,
    /// What the evaluations have come to.
    pub(super) evaluations: Evaluations,
    /// Updates that are done.
    pub(super) done: u64,
    /// The update of the last checkpoint of this run, written or resumed from.
    pub(super) saved: Option<u64>,
}
