//! One update: micro-batches, the fold, the collective, the guard, clipping, the optimizer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use mdt_plugin_api::{Buffer, Outcome as WorkOutcome, ReduceOp};

use super::Run;
use crate::exit::{Failure, Status};
use crate::fold::Partial;
use crate::gradient::{self, LOSS, METRICS, SUPERVISED, TOKENS, WEIGHT};
use crate::prefetch::MicroBatch;
use crate::update;

/// How long a collective may take before the job is given up.
const COLLECTIVE_DEADLINE: Duration = Duration::from_secs(30);

/// What an update came to.
pub(super) enum Outcome {
    /// The weights are updated.
    Updated(UpdateLine),
    /// The job was cancelled, and the weights are those of the last update.
    Cancelled,
}

/// The numbers of an update.
pub(super) struct UpdateLine {
    /// Mean loss over all supervised tokens of the update.
    pub(super) loss: f64,
    /// Global norm of the mean gradient, before clipping.
    pub(super) grad_norm: f64,
    /// The learning rate.
    pub(super) learning_rate: f64,
    /// Tokens of all ranks, without padding.
    pub(super) tokens: u64,
    /// Tokens of all ranks that were trained.
    pub(super) supervised_tokens: u64,
    /// How long this rank waited for its rows.
    pub(super) data_wait: Duration,
    /// The trainer's and other plugins' own numbers.
    pub(super) metrics: Vec<(String, f64)>,
}

impl Run<'_> {
    /// Makes the next update.
    pub(super) fn update(
        &mut self,
        batches: &Receiver<MicroBatch>,
        cancelled: &AtomicBool,
    ) -> Result<Outcome, Failure> {
        let step = self.done + 1;
        let mut data_wait = Duration::ZERO;
        let mut bad_rows = Vec::new();
        for _ in 0..self.plan.accumulation {
            if cancelled.load(Ordering::Relaxed) {
                return Ok(Outcome::Cancelled);
            }
            let begin = Instant::now();
            let MicroBatch { rows, batch } =
                batches.recv().map_err(|_| Failure::new(Status::Other, "the thread that makes batches has ended"))?;
            data_wait += begin.elapsed();
            if rows.is_empty() {
                continue;
            }
            let name = |failure: Failure| failure.at(format!("update {step}, {}", self.dataset.name_rows(&rows)));
            let batch = batch.map_err(|error| name(error.into()))?;
            let buffer = self.fold.buffer(self.parameters.elements());
            let partial =
                self.objective.gradient(&self.parameters, &batch, buffer).map_err(|error| name(error.into()))?;
            if !gradient::is_finite(&partial) {
                bad_rows.extend(rows);
            }
            self.fold.push(partial);
        }
        let Partial { mut gradient, scalars } = self.reduce(bad_rows.len())?;
        self.guard(step, &scalars, &bad_rows)?;

        let weight = scalars[WEIGHT];
        let grad_norm = update::norm_of_mean(&gradient, weight);
        update::scale(&mut gradient, weight, grad_norm, self.settings.trainer.max_grad_norm);
        let learning_rate = self.schedule.learning_rate(step);
        self.updater
            .apply(&mut self.parameters, &gradient, step, learning_rate)
            .map_err(|error| Failure::from(error).at(format!("update {step}")))?;
        self.fold.recycle(gradient);
        self.done = step;

        let names = self.objective.metric_names().into_iter();
        let mut metrics: Vec<_> = names.zip(scalars[METRICS..].iter().copied()).collect();
        metrics.extend(self.job.services.take_metrics());
        Ok(Outcome::Updated(UpdateLine {
            loss: scalars[LOSS] / weight,
            grad_norm,
            learning_rate,
            tokens: scalars[TOKENS] as u64,
            supervised_tokens: scalars[SUPERVISED] as u64,
            data_wait,
            metrics,
        }))
    }

    /// Sums over micro-batches and ranks. The last scalar is the number of bad rows of all ranks.
    fn reduce(&mut self, bad_rows: usize) -> Result<Partial, Failure> {
        let mut partial = self.fold.finish().unwrap_or_else(|| Partial {
            gradient: vec![0.0; self.parameters.elements()],
            scalars: vec![0.0; METRICS + self.objective.metric_names().len()],
        });
        partial.scalars.push(bad_rows as f64);
        let buffers = vec![Buffer::F32(partial.gradient), Buffer::F64(partial.scalars)];
        let outcome = self.communicator.all_reduce(buffers, ReduceOp::Sum)?.wait(COLLECTIVE_DEADLINE)?;
        let failure = |message: String| Failure::new(Status::Peer, message);
        let WorkOutcome::Done(buffers) = outcome else {
            return Err(failure(format!("a collective did not end within {} s", COLLECTIVE_DEADLINE.as_secs())));
        };
        match <[Buffer; 2]>::try_from(buffers) {
            Ok([Buffer::F32(gradient), Buffer::F64(scalars)]) => Ok(Partial { gradient, scalars }),
            _ => Err(failure("a collective gave other buffers back than it was given".to_owned())),
        }
    }

    /// Stops before an update that would spoil the weights.
    fn guard(&self, step: u64, scalars: &[f64], bad_rows: &[usize]) -> Result<(), Failure> {
        let on_some_rank = scalars.last().is_some_and(|&count| count > 0.0);
        let overflow = !scalars[LOSS].is_finite();
        if !on_some_rank && !overflow {
            return Ok(());
        }
        let mut failure =
            Failure::new(Status::NonFinite, format!("the loss or gradient of update {step} is not finite"));
        failure = match bad_rows {
            [] => failure.at("another rank, or the sum over all micro-batches"),
            rows => failure.at(self.dataset.name_rows(rows)),
        };
        Err(failure
            .because("the update was not applied: the weights are those of the update before")
            .help("lower `optimizer.learning_rate`, lengthen `scheduler.warmup_steps`, or look at these rows"))
    }
}
