//! The loop: update after update, with evaluations and checkpoints between them.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use mdt_plugin_api::{Compute, Trainer};

use super::accumulate::Fold;
use super::best::Evaluations;
use super::gradient::Objective;
use super::optimizer::Updater;
use super::schedule::Schedule;
use super::update::Outcome;
use crate::checkpoint::Store;
use crate::config::Settings;
use crate::data::{Dataset, Plan, prefetch};
use crate::exit::{Failure, Status};
use crate::job::Job;
use crate::metrics::Metrics;
use crate::model::{Directory, Parameters};
use crate::peers::Peers;
use crate::progress::{self, Progress};

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

/// How a run ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All updates are done, and the final model is written.
    Done,
    /// They were done before this run began.
    AlreadyDone,
}

/// Trains. Call it on the thread that is to be the compute thread.
///
/// # Errors
/// Anything that is wrong with the job, before anything is spent; then what goes wrong while it runs. An interruption
/// is [`Status::Interrupted`], after a checkpoint was written.
pub fn train(job: &Job, cancelled: &AtomicBool) -> Result<End, Failure> {
    let mut run = Run::open(job)?;
    let outcome = run.finish(cancelled);
    match &outcome {
        // All ranks stop by these, each by itself: one that is done first must not stop another that still saves.
        Ok(_) => {}
        Err(failure) if matches!(failure.status(), Status::Interrupted | Status::NonFinite) => {}
        Err(failure) => run.peers.abort(failure.message()),
    }
    outcome
}

impl Run<'_> {
    /// Makes the updates that remain.
    fn finish(&mut self, cancelled: &AtomicBool) -> Result<End, Failure> {
        if self.is_finished() {
            progress::note(&self.why_finished());
            self.export()?;
            return Ok(End::AlreadyDone);
        }
        self.announce();
        let batches = prefetch::start(&self.plan, self.peers.rank(), self.done + 1, &self.dataset, &self.trainer)
            .map_err(|error| Failure::new(Status::Other, "no thread can be started").because(error))?;
        self.evaluate_at_start()?;
        while !self.is_finished() {
            let begin = Instant::now();
            match self.update(&batches, cancelled)? {
                Outcome::Updated(line) => self.report(line, begin.elapsed())?,
                Outcome::Cancelled => return Err(self.interrupted()),
            }
            if self.evaluation_due() {
                self.evaluate()?;
            }
            if self.is_finished() || self.save_due() {
                self.save()?;
            }
        }
        self.progress.finish();
        self.export()?;
        Ok(End::Done)
    }
}
