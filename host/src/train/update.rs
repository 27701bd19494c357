//! One update: micro-batches, the fold, the collective, the guard, clipping, the optimizer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use super::accumulate::Partial;
use super::gradient::{self, LOSS, METRICS, SUPERVISED, TOKENS, WEIGHT};
use super::{Run, clip};
use crate::data::MicroBatch;
use crate::exit::{Failure, Status};

/// Scalars that follow the trainer's metrics in the sum over ranks: the number of bad rows, and of ranks that were told
/// to stop.
const FLAGS: usize = 2;

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
    /// Makes the next update, together with all other ranks.
    pub(super) fn update(
        &mut self,
        batches: &Receiver<MicroBatch>,
        cancelled: &AtomicBool,
    ) -> Result<Outcome, Failure> {
        let step = self.done + 1;
        let mut data_wait = Duration::ZERO;
        let mut bad_rows = Vec::new();
        for _ in 0..self.plan.accumulation {
            // The others must hear of it: whoever left here would leave them waiting.
            if cancelled.load(Ordering::Relaxed) {
                break;
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
        let flags = [bad_rows.len() as f64, f64::from(u8::from(cancelled.load(Ordering::Relaxed)))];
        let (Partial { mut gradient, scalars }, [all_bad_rows, all_cancelled]) = self.reduce(step, flags)?;
        if all_cancelled > 0.0 {
            self.fold.recycle(gradient);
            return Ok(Outcome::Cancelled);
        }
        self.guard(step, &scalars, all_bad_rows > 0.0, &bad_rows)?;

        let weight = scalars[WEIGHT];
        let grad_norm = clip::norm_of_mean(&gradient, weight);
        clip::scale(&mut gradient, weight, grad_norm, self.settings.trainer.max_grad_norm);
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

    /// Sums over micro-batches and ranks, the flags of this rank with it.
    fn reduce(&mut self, step: u64, flags: [f64; FLAGS]) -> Result<(Partial, [f64; FLAGS]), Failure> {
        let metrics = self.number_of_metrics()?;
        // A rank without rows adds nothing to a bit of the others': x + -0.0 is x, and -0.0 + 0.0 would be 0.0.
        let mut partial = self.fold.finish().unwrap_or_else(|| Partial {
            gradient: vec![-0.0; self.parameters.elements()],
            scalars: vec![-0.0; METRICS + metrics],
        });
        partial.scalars.extend(flags);
        let what = format!("the gradients of update {step}");
        let (gradient, mut scalars) = self.peers.sum(&what, partial.gradient, partial.scalars)?;
        let flags = scalars.split_off(scalars.len() - FLAGS);
        let flags = [flags[0], flags[1]];
        Ok((Partial { gradient, scalars }, flags))
    }

    /// How many metrics the trainer has. A rank that has had no rows cannot know, and asks the others once.
    fn number_of_metrics(&mut self) -> Result<usize, Failure> {
        if let Some(number) = self.number_of_metrics {
            return Ok(number);
        }
        let own = self.objective.metric_names().len() as f64;
        let all = self.peers.gather_numbers("the number of metrics", vec![own])?;
        let number = all.into_iter().flatten().fold(0.0, f64::max) as usize;
        Ok(*self.number_of_metrics.insert(number))
    }

    /// Stops before an update that would spoil the weights.
    fn guard(&self, step: u64, scalars: &[f64], bad: bool, bad_rows: &[usize]) -> Result<(), Failure> {
        if !bad && scalars[LOSS].is_finite() {
            return Ok(());
        }
        let own = match bad_rows {
            [] => String::new(),
            rows => self.dataset.name_rows(rows),
        };
        let all = self.peers.gather_texts("the rows that are to blame", own)?;
        let named = all.iter().enumerate().filter(|(_, rows)| !rows.is_empty());
        let named: Vec<String> = match self.peers.world_size() {
            1 => all.clone(),
            _ => named.map(|(rank, rows)| format!("rank {rank}, {rows}")).collect(),
        };
        let failure = Failure::new(Status::NonFinite, format!("the loss or gradient of update {step} is not finite"));
        let failure = match bad {
            true => named.iter().fold(failure, Failure::at),
            false => failure.at("the sum over all micro-batches"),
        };
        Err(failure
            .because("the update was not applied: the weights are those of the update before")
            .help("lower `optimizer.learning_rate`, lengthen `scheduler.warmup_steps`, or look at these rows"))
    }
}
