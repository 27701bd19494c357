//! The training run: everything is opened and checked, then update follows update.

mod files;
mod open;
mod report;
mod run;
mod start;
mod step;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

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
    if run.done == run.plan.total_updates() {
        progress::note(&format!("all {} updates are done already", run.done));
        run.export()?;
        return Ok(End::AlreadyDone);
    }
    run.announce();
    let batches = prefetch::start(&run.plan, run.rank(), run.done + 1, &run.dataset, &run.trainer)
        .map_err(|error| Failure::new(Status::Other, "no thread can be started").because(error))?;
    let total = run.plan.total_updates();
    while run.done < total {
        let begin = Instant::now();
        match run.update(&batches, cancelled)? {
            Outcome::Updated(line) => run.report(line, begin.elapsed())?,
            Outcome::Cancelled => return Err(run.interrupted()),
        }
        let last = run.done == total;
        if run.evaluation_due() {
            run.evaluate()?;
        }
        if last || run.save_due() {
            run.save()?;
        }
        if !last && cancelled.load(Ordering::Relaxed) {
            return Err(run.interrupted());
        }
    }
    run.progress.finish();
    run.export()?;
    Ok(End::Done)
}
