//! The training run: everything is opened and checked, then update follows update.

mod agree;
mod best;
mod connect;
mod evaluate;
mod files;
mod open;
mod report;
mod run;
mod share;
mod start;
mod step;

use std::sync::atomic::AtomicBool;
use std::time::Instant;

pub use connect::backend;
pub use run::Run;
use step::Outcome;

use crate::exit::{Failure, Status};
use crate::job::Job;
use crate::prefetch;
use crate::progress;

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
