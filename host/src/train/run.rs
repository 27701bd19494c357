//! The state of a run between two updates.

use std::rc::Rc;
use std::sync::Arc;

use mdt_plugin_api::{Communicator, Compute, Trainer};

use crate::checkpoint::Store;
use crate::config::Settings;
use crate::data::Dataset;
use crate::fold::Fold;
use crate::gradient::Objective;
use crate::job::Job;
use crate::metrics::Metrics;
use crate::model::{Directory, Parameters};
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
    pub(super) communicator: Box<dyn Communicator>,
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
    pub(super) store: Store,
    pub(super) metrics: Metrics,
    pub(super) progress: Progress,
    /// Updates that are done.
    pub(super) done: u64,
    /// The update of the last checkpoint of this run, written or resumed from.
    pub(super) saved: Option<u64>,
}

impl Run<'_> {
    /// This process, from 0.
    pub(super) fn rank(&self) -> usize {
        self.communicator.rank() as usize
    }
}
