//! One update: micro-batches, their sum over ranks, the guard, clipping, the optimizer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mdt_plugin_api::HostBatch;

use super::accumulate::{Accumulator, Gradient, Partial, Sums};
use super::gradient::Objective;
use super::guard::{Context, Guard};
use super::optimizer::StatefulOptimizer;
use super::prefetch::{Ahead, MicroBatch};
use super::prepare::Place;
use super::schedule::Schedule;
use super::stop::Stop;
use super::{clip, on_device};
use crate::checkpoint::Checkpoint;
use crate::config::Settings;
use crate::data::RowLocation;
use crate::exit::Failure;
use crate::finite::all_finite;
use crate::model::{Parameters, Randomness, Training};
use crate::peers::Peers;
use crate::staging::{self, Staged};

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
    /// Bytes that this rank copied between host and device.
    pub(super) staged: Staged,
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
    seed: u64,
    recompute: bool,
    /// The number of this rank's first micro-batch of an update, among those of all ranks.
    first_micro_batch: u64,
}

impl Learner {
    /// A learner of a job with so many updates. `recompute` says whether layers are computed again for gradients.
    pub(super) fn new(
        settings: &Settings,
        total_updates: u64,
        recompute: bool,
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
            seed: settings.seed,
            recompute,
            first_micro_batch: settings.comm.rank as u64 * settings.trainer.gradient_accumulation_steps as u64,
        }
    }

    /// How the model computes a micro-batch of this rank.
    fn training(&self, update: u64, micro_batch: u64) -> Training {
        let micro_batch = self.first_micro_batch + micro_batch;
        Training { randomness: Randomness { seed: self.seed, update, micro_batch }, recompute: self.recompute }
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
        staging::take();
        let mut data_wait = Duration::ZERO;
        let mut trained = 0.0;
        let mut guard = Guard::default();
        let mut micro_batch = 0;
        let prepares = self.objective.trainer.prepare.is_some();
        let mut accumulate = || -> Result<(), Failure> {
            // A rank that is cancelled goes on to the reduction, which tells the others: they would wait for it.
            while !cancelled.load(Ordering::Relaxed) {
                let begin = Instant::now();
                let Some(next) = micro_batches.next() else { break };
                let MicroBatch { rows, batch } = next?;
                data_wait += begin.elapsed();
                let at_rows = |failure: Failure| failure.at(format!("update {update}, {}", name_rows(&rows)));
                let batch = batch.map_err(|error| at_rows(error.into()))?;
                let training = self.training(update, micro_batch);
                micro_batch += 1;
                let Some(batch) = batch else {
                    let nothing = self.nothing();
                    self.accumulator.push(nothing)?;
                    continue;
                };
                trained += 1.0;
                let batches = self.batches(update, batch).map_err(|error| at_rows(error.into()))?;
                let leaf = self.micro_batch(&batches, training).map_err(|error| at_rows(error.into()))?;
                guard.inspect(&rows, &leaf.partial.sums, leaf.gradient_is_finite);
                self.accumulator.push(leaf.partial)?;
            }
            Ok(())
        };
        match prepares {
            true => peers.together(&format!("what is prepared for update {update}"), accumulate)?,
            false => accumulate()?,
        }

        let (mut gradient, sums) = self.finish().map_err(Failure::from)?;
        let ([loss, weight, tokens, supervised], flags) = (sums.numbers(), guard.flags());
        let cancelled = f64::from(u8::from(cancelled.load(Ordering::Relaxed)));
        let numbers = [loss, weight, tokens, supervised, flags[0], flags[1], cancelled, trained];
        let what = format!("the gradients of update {update}");
        let numbers = self.all_reduce(peers, &what, &mut gradient, numbers)?;
        let [loss, weight, tokens, supervised, not_finite, bad_weights, cancelled, trained] = numbers;
        if cancelled > 0.0 {
            self.recycle(gradient);
            return Ok(None);
        }

        let learning_rate = self.schedule.learning_rate(update);
        if trained == 0.0 {
            // None of the rows has anything to train: they leave the weights as they are.
            self.recycle(gradient);
            let (loss, grad_norm, metrics, staged) = (f64::NAN, 0.0, BTreeMap::new(), staging::take());
            let (tokens, supervised_tokens) = (0, 0);
            let numbers =
                UpdateNumbers { loss, grad_norm, learning_rate, tokens, supervised_tokens, staged, data_wait, metrics };
            return Ok(Some(numbers));
        }
        let grad_norm = match &gradient {
            Gradient::Host(gradient) => clip::norm_of_mean(gradient, weight),
            Gradient::Device(gradients) => on_device::norm_of_mean(gradients, weight).map_err(Failure::from)?,
        };
        let factor = clip::factor(weight, grad_norm, self.max_grad_norm);
        let context = Context { update, trainer: &self.trainer, parameters: &self.parameters, peers, name_rows };
        let all = Sums::of_numbers([loss, weight, tokens, supervised]);
        let factor = guard.check(&context, &all, [not_finite, bad_weights], factor)?;
        self.apply(gradient, factor, update).map_err(|error| Failure::from(error).at(format!("update {update}")))?;

        Ok(Some(UpdateNumbers {
            loss: loss / weight,
            grad_norm,
            learning_rate,
            tokens: tokens as u64,
            supervised_tokens: supervised as u64,
            staged: staging::take(),
            data_wait,
            metrics: sums.metrics,
        }))
    }

    /// The batches of a micro-batch.
    fn batches(&self, update: u64, ahead: Ahead) -> mdt_plugin_api::Result<Vec<HostBatch>> {
        match ahead {
            Ahead::Batches(batches) => Ok(batches),
            Ahead::Items(items, number) => {
                let place = Place { purpose: "prepare", update, number };
                Ok(vec![self.objective.prepared(&self.parameters, place, &items.iter().collect::<Vec<_>>())?])
            }
        }
    }

    /// A micro-batch of rows with nothing to train: it keeps its place in the tree, and changes no bit of the sum.
    fn nothing(&mut self) -> Partial {
        let gradient = if self.optimizer.is_on_device() {
            Gradient::Device(Vec::new())
        } else {
            let mut gradient = self.accumulator.buffer(self.parameters.elements());
            gradient.fill(-0.0);
            Gradient::Host(gradient)
        };
        Partial { gradient, sums: Sums::NONE }
    }

    /// Loss and gradient of a micro-batch: those of its batches, added.
    fn micro_batch(&mut self, batches: &[HostBatch], training: Training) -> mdt_plugin_api::Result<Leaf> {
        let mut sum = Accumulator::default();
        let mut gradient_is_finite = true;
        for batch in batches {
            let leaf = self.batch(batch, training)?;
            gradient_is_finite &= leaf.gradient_is_finite;
            sum.push(leaf.partial)?;
        }
        Ok(Leaf { partial: sum.finish_any()?.unwrap_or_else(|| self.nothing()), gradient_is_finite })
    }

    /// Loss and gradient of a batch, the gradient where the update takes it.
    fn batch(&mut self, batch: &HostBatch, training: Training) -> mdt_plugin_api::Result<Leaf> {
        let (gradients, sums) = self.objective.gradient(&self.parameters, batch, training)?;
        if self.optimizer.is_on_device() {
            let gradient_is_finite = on_device::all_finite(&gradients)?;
            return Ok(Leaf { partial: Partial { gradient: Gradient::Device(gradients), sums }, gradient_is_finite });
        }
        let mut gradient = self.accumulator.buffer(self.parameters.elements());
        on_device::read(&gradients, self.parameters.specs(), &mut gradient)?;
        let gradient_is_finite = all_finite(&gradient);
        Ok(Leaf { partial: Partial { gradient: Gradient::Host(gradient), sums }, gradient_is_finite })
    }

    /// The sum of this rank's micro-batches.
    fn finish(&mut self) -> mdt_plugin_api::Result<(Gradient, Sums)> {
        if self.optimizer.is_on_device() {
            let (gradients, sums) = self.accumulator.finish_on_device()?;
            return Ok((Gradient::Device(gradients), sums));
        }
        let (gradient, sums) = self.accumulator.finish(self.parameters.elements())?;
        Ok((Gradient::Host(gradient), sums))
    }

    /// Sums a gradient and numbers over all ranks. Collectives are on host memory: with several ranks a gradient on the
    /// device is copied there and back.
    fn all_reduce<const N: usize>(
        &mut self,
        peers: &Peers,
        what: &str,
        gradient: &mut Gradient,
        numbers: [f64; N],
    ) -> Result<[f64; N], Failure> {
        let on_host = match gradient {
            Gradient::Host(gradient) => std::mem::take(gradient),
            Gradient::Device(_) if peers.world_size() == 1 => Vec::new(),
            Gradient::Device(gradients) => {
                let mut buffer = self.accumulator.buffer(self.parameters.elements());
                if gradients.is_empty() {
                    buffer.fill(-0.0);
                }
                on_device::read(gradients, self.parameters.specs(), &mut buffer)?;
                gradients.clear();
                buffer
            }
        };
        let (sum, numbers) = peers.sum(what, on_host, numbers)?;
        match gradient {
            Gradient::Host(gradient) => *gradient = sum,
            Gradient::Device(_) if peers.world_size() == 1 => {}
            Gradient::Device(gradients) => {
                *gradients = on_device::upload(&self.objective.compute, self.parameters.specs(), &sum)?;
                self.accumulator.recycle(sum);
            }
        }
        Ok(numbers)
    }

    /// Updates the parameters with a summed gradient, which is multiplied by `factor` first.
    fn apply(&mut self, gradient: Gradient, factor: f32, update: u64) -> mdt_plugin_api::Result<()> {
        match gradient {
            Gradient::Host(mut gradient) => {
                clip::scale(&mut gradient, factor);
                self.optimizer.apply(&mut self.parameters, &gradient, update)?;
                self.accumulator.recycle(gradient);
                Ok(())
            }
            Gradient::Device(gradients) => {
                let scaled = on_device::scaled(&gradients, factor)?;
                drop(gradients);
                self.optimizer.apply_on_device(&mut self.parameters, scaled, update)
            }
        }
    }

    fn recycle(&mut self, gradient: Gradient) {
        if let Gradient::Host(gradient) = gradient {
            self.accumulator.recycle(gradient);
        }
    }

    /// Replaces parameters and states by those of a checkpoint.
    pub(super) fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), Failure> {
        let tensors = checkpoint.parameters()?;
        let specs = self.parameters.specs().iter();
        let expected: Vec<_> = specs.map(|spec| (spec.name.as_str(), spec.shape.as_slice())).collect();
        let arrays = tensors.arrays(&expected)?;
        for (tensor, array) in self.parameters.tensors_mut().iter_mut().zip(arrays) {
            *tensor = staging::upload(&self.objective.compute, array)?;
        }
        self.optimizer.restore(checkpoint)
    }

    /// Runs `body` with the weights for evaluation after update `update` in the place of those that are trained.
    pub(super) fn with_evaluation_weights<T>(
        &mut self,
        update: u64,
        body: impl FnOnce(&Self) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let Some(mut weights) = self.optimizer.evaluation_weights(&self.parameters, update)? else { return body(self) };
        let mut swap = |parameters: &mut Parameters| parameters.tensors_mut().swap_with_slice(&mut weights);
        swap(&mut self.parameters);
        let result = body(self);
        swap(&mut self.parameters);
        result
    }
}

/// A micro-batch as a leaf of the update's sum.
struct Leaf {
    partial: Partial,
    gradient_is_finite: bool,
}
