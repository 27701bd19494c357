//! One update: micro-batches, their sum over ranks, the guard, clipping, the optimizer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::accumulate::{Accumulator, Partial, Sums};
use super::clip;
use super::gradient::Objective;
use super::guard::{Context, Guard};
use super::optimizer::StatefulOptimizer;
use super::prefetch::MicroBatch;
use super::schedule::Schedule;
use super::stop::Stop;
use crate::config::Settings;
use crate::data::RowLocation;
use crate::exit::Failure;
use crate::model::Parameters;
use crate::peers::Peers;

/// The numbers of an update.
pub(super) struct UpdateNumbers {
    /// Mean loss over all supervised tokens of the update; NaN where none of its rows has anything to train.
    pub(super) loss: f64,
    /// Global norm of the mean gradient, before clipping.
    pub(super) grad_norm: f64,
    pub(super) learning_rate: f64,
    /// Tokens of all ranks, without padding.
    pub(super) tokens: u64,
    /// Tokens of all ranks that were trained.
    pub(super) supervised_tokens: u64,
    /// How long this rank waited for its rows.
    pub(super) data_wait: Duration,
    /// The trainer's metrics, sum and weight, over this rank's micro-batches.
    pub(super) metrics: BTreeMap<String, [f64; 2]>,
}

/// What learns: the parameters, and all that an update of them takes. Compute thread only.
pub(super) struct Learner {
    pub(super) parameters: Parameters,
    pub(super) objective: Objective,
    pub(super) optimizer: StatefulOptimizer,
    pub(super) accumulator: Accumulator,
    schedule: Schedule,
    max_grad_norm: f64,
    /// The component that losses come from.
    trainer: String,
}

impl Learner {
    /// A learner of a job with so many updates.
    pub(super) fn new(
        settings: &Settings,
        total_updates: u64,
        parameters: Parameters,
        objective: Objective,
        optimizer: StatefulOptimizer,
    ) -> Self {
        Self {
            parameters,
            objective,
            optimizer,
            accumulator: Accumulator::default(),
            schedule: Schedule::new(&settings.scheduler, settings.optimizer.learning_rate, total_updates),
            max_grad_norm: settings.trainer.max_grad_norm,
            trainer: settings.trainer.id.clone(),
        }
    }

    /// Makes update number `update`, from 1, together with all other ranks. `name_rows` names rows of the micro-batches
    /// for messages. None if the job was cancelled; the weights are then those of the last update.
    pub(super) fn update(
        &mut self,
        update: u64,
        peers: &Peers,
        mut micro_batches: impl Iterator<Item = Result<MicroBatch, Failure>>,
        name_rows: &dyn Fn(&[RowLocation]) -> String,
        cancelled: &AtomicBool,
    ) -> Result<Option<UpdateNumbers>, Stop> {
        let mut data_wait = Duration::ZERO;
        let mut trained = 0.0;
        let mut guard = Guard::default();
        // A rank that is cancelled goes on to the reduction, which tells the others: they would wait for it.
        while !cancelled.load(Ordering::Relaxed) {
            let begin = Instant::now();
            let Some(micro_batch) = micro_batches.next() else { break };
            let MicroBatch { rows, batch } = micro_batch?;
            data_wait += begin.elapsed();
            let at_rows = |failure: Failure| failure.at(format!("update {update}, {}", name_rows(&rows)));
            let batch = batch.map_err(|error| at_rows(error.into()))?;
            let mut buffer = self.accumulator.buffer(self.parameters.elements());
            let Some(batch) = batch else {
                // It keeps its place in the tree, and changes no bit of the sum.
                buffer.fill(-0.0);
                self.accumulator.push(Partial { gradient: buffer, sums: Sums::NONE });
                continue;
            };
            trained += 1.0;
            let partial =
                self.objective.gradient(&self.parameters, &batch, buffer).map_err(|error| at_rows(error.into()))?;
            guard.inspect(&rows, &partial);
            self.accumulator.push(partial);
        }

        let Partial { gradient, sums } = self.accumulator.finish(self.parameters.elements());
        let ([loss, weight, tokens, supervised], flags) = (sums.numbers(), guard.flags());
        let cancelled = f64::from(u8::from(cancelled.load(Ordering::Relaxed)));
        let numbers = [loss, weight, tokens, supervised, flags[0], flags[1], cancelled, trained];
        let (mut gradient, numbers) = peers.sum(&format!("the gradients of update {update}"), gradient, numbers)?;
        let [loss, weight, tokens, supervised, not_finite, bad_weights, cancelled, trained] = numbers;
        if cancelled > 0.0 {
            self.accumulator.recycle(gradient);
            return Ok(None);
        }

        let learning_rate = self.schedule.learning_rate(update);
        if trained == 0.0 {
            // None of the rows has anything to train: they leave the weights as they are.
            self.accumulator.recycle(gradient);
            let (loss, grad_norm, metrics) = (f64::NAN, 0.0, BTreeMap::new());
            let numbers =
                UpdateNumbers { loss, grad_norm, learning_rate, tokens: 0, supervised_tokens: 0, data_wait, metrics };
            return Ok(Some(numbers));
        }
        let grad_norm = clip::norm_of_mean(&gradient, weight);
        let factor = clip::factor(weight, grad_norm, self.max_grad_norm);
        let context = Context { update, trainer: &self.trainer, parameters: &self.parameters, peers, name_rows };
        let all = Sums::of_numbers([loss, weight, tokens, supervised]);
        let factor = guard.check(&context, &all, [not_finite, bad_weights], factor)?;
        clip::scale(&mut gradient, factor);
        self.optimizer
            .apply(&mut self.parameters, &gradient, update, learning_rate)
            .map_err(|error| Failure::from(error).at(format!("update {update}")))?;
        self.accumulator.recycle(gradient);

        Ok(Some(UpdateNumbers {
            loss: loss / weight,
            grad_norm,
            learning_rate,
            tokens: tokens as u64,
            supervised_tokens: supervised as u64,
            data_wait,
            metrics: sums.metrics,
        }))
    }
}
