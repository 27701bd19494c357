//! One update: micro-batches, their sum over ranks, the guard, clipping, the optimizer.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use mdt_plugin_api::{Region, Tensor};

use super::accumulate::{Accumulator, Sums};
use super::gradient::Objective;
use super::guard::Context;
use super::layout::GradientLayout;
use super::optimizer::StatefulOptimizer;
use super::own_part::OwnPart;
use super::prefetch::MicroBatch;
use super::reduction::{Reduction, Summed};
use super::schedule::Schedule;
use super::stop::Stop;
use super::{clip, on_device, shards};
use crate::checkpoint::Checkpoint;
use crate::config::{GradientDtype, Settings};
use crate::data::RowLocation;
use crate::exit::Failure;
use crate::model::Parameters;
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
    /// How long its own part of the update took, the rows included: until it waited for the sum over ranks.
    pub(super) own_part: Duration,
    /// Bytes of gradients that this rank gave to collectives.
    pub(super) reduced_bytes: usize,
    /// How long it waited for their sums once its own gradient was computed.
    pub(super) reduction_wait: Duration,
    /// The trainer's metrics, sum and weight, over this rank's micro-batches.
    pub(super) metrics: BTreeMap<String, [f64; 2]>,
}

/// What learns: the parameters, and all that an update of them takes. Compute thread only.
pub(super) struct Learner {
    pub(super) parameters: Parameters,
    pub(super) objective: Objective,
    pub(super) optimizer: StatefulOptimizer,
    pub(super) accumulator: Accumulator,
    /// Where gradients lie in memory.
    pub(super) layout: Rc<GradientLayout>,
    /// That memory, where sums over ranks are made; none before the first update.
    memory: Option<Region>,
    /// Whether buckets are summed while others are computed.
    pub(super) overlaps: bool,
    gradient_dtype: GradientDtype,
    schedule: Schedule,
    max_grad_norm: f64,
    /// The component that losses come from.
    trainer: String,
    pub(super) seed: u64,
    pub(super) recompute: bool,
    /// The number of this rank's first micro-batch of an update, among those of all ranks.
    pub(super) first_micro_batch: u64,
}

/// The gradient of all ranks, where the update takes it.
enum SummedGradient<'a> {
    Host(Summed<'a>),
    Device(Vec<Tensor>),
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
        layout: GradientLayout,
    ) -> Self {
        // What a trainer prepares takes as long as it takes, and until all ranks are done they exchange signs of life.
        let overlaps = settings.comm.overlap && objective.trainer.prepare.is_none();
        Self {
            parameters,
            objective,
            optimizer,
            accumulator: Accumulator::default(),
            layout: Rc::new(layout),
            memory: None,
            overlaps,
            gradient_dtype: settings.comm.gradient_dtype,
            schedule: Schedule::new(&settings.scheduler, settings.optimizer.learning_rate, total_updates),
            max_grad_norm: settings.trainer.max_grad_norm,
            trainer: settings.trainer.id.clone(),
            seed: settings.seed,
            recompute,
            first_micro_batch: settings.comm.rank as u64 * settings.trainer.gradient_accumulation_steps as u64,
        }
    }

    /// Makes update number `update`, from 1, together with all other ranks. `name_rows` names rows of the micro-batches
    /// for messages. None if the job was cancelled; the weights are then those of the last update.
    pub(super) fn update(
        &mut self,
        update: u64,
        peers: &Peers,
        micro_batches: impl Iterator<Item = Result<MicroBatch, Failure>>,
        name_rows: &dyn Fn(&[RowLocation]) -> String,
        cancelled: &AtomicBool,
    ) -> Result<Option<UpdateNumbers>, Stop> {
        staging::take();
        let mut own = OwnPart::new(update, name_rows, cancelled);
        let prepares = self.objective.trainer.prepare.is_some();
        let accumulate = || own.accumulate(self, micro_batches);
        match prepares {
            true => peers.together(&format!("what is prepared for update {update}"), accumulate)?,
            false => accumulate()?,
        }
        let (layout, memory) = (Rc::clone(&self.layout), self.memory(peers)?);
        let what = format!("the gradients of update {update}");
        let mut reduction = Reduction::new(peers, &layout, &memory, self.gradient_dtype, what);
        let begin = Instant::now();
        let on_device = own.begin_sum(self, &mut reduction)?;
        let (reduced_bytes, summed_own) = (reduction.bytes(), begin.elapsed());
        let (mut gradient, numbers) = self.finish_sum(reduction, on_device)?;
        let (own_part, reduction_wait) = (own.accumulated + summed_own, begin.elapsed() - summed_own);
        let OwnPart { guard, data_wait, sums: Sums { metrics, .. }, .. } = own;
        let [loss, weight, tokens, supervised, not_finite, bad_weights, cancelled, trained] = numbers;
        if cancelled > 0.0 {
            return Ok(None);
        }

        let learning_rate = self.schedule.learning_rate(update);
        let numbers = |staged| UpdateNumbers {
            loss: f64::NAN,
            grad_norm: 0.0,
            learning_rate,
            tokens: 0,
            supervised_tokens: 0,
            staged,
            data_wait,
            own_part,
            reduced_bytes,
            reduction_wait,
            metrics: BTreeMap::new(),
        };
        if trained == 0.0 {
            // None of the rows has anything to train: they leave the weights as they are.
            return Ok(Some(numbers(staging::take())));
        }
        let grad_norm = match &gradient {
            SummedGradient::Host(gradient) => gradient.norm_of_mean(peers, weight)?,
            SummedGradient::Device(gradients) => on_device::norm_of_mean(gradients, weight).map_err(Failure::from)?,
        };
        let factor = clip::factor(weight, grad_norm, self.max_grad_norm);
        let context = Context { update, trainer: &self.trainer, parameters: &self.parameters, peers, name_rows };
        let all = Sums::of_numbers([loss, weight, tokens, supervised]);
        let factor = guard.check(&context, &all, [not_finite, bad_weights], factor)?;
        self.apply(&mut gradient, factor, update).map_err(|failure| failure.at(format!("update {update}")))?;
        drop(gradient);
        shards::share_weights(peers, &layout, &mut self.parameters, &format!("the weights after update {update}"))?;

        Ok(Some(UpdateNumbers {
            loss: loss / weight,
            grad_norm,
            tokens: tokens as u64,
            supervised_tokens: supervised as u64,
            metrics,
            ..numbers(staging::take())
        }))
    }

    /// The memory that gradients are summed in, with zeros between them at first.
    fn memory(&mut self, peers: &Peers) -> Result<Region, Failure> {
        if let Some(memory) = &self.memory {
            return Ok(memory.clone());
        }
        // The gradient of one rank stays on the device where the update is there.
        let is_needed = peers.world_size() > 1 || !self.optimizer.is_on_device();
        let length = if is_needed { self.layout.length() } else { 0 };
        let memory = match peers.memory(length * size_of::<f32>())? {
            Some(memory) => {
                memory.buffer::<f32>(0..length)?.as_mut_slice::<f32>()?.fill(0.0);
                memory
            }
            None => Region::of(vec![0.0f32; length]),
        };
        Ok(self.memory.insert(memory).clone())
    }

    /// Waits for the sum of a gradient and of numbers. One on the device is copied back there, but for that of a single
    /// rank, which has never left it.
    fn finish_sum<'a>(
        &self,
        reduction: Reduction<'a>,
        on_device: Option<Vec<Tensor>>,
    ) -> Result<(SummedGradient<'a>, [f64; 8]), Failure> {
        let (summed, numbers) = reduction.finish()?;
        let gradient = match on_device {
            Some(gradients) => SummedGradient::Device(gradients),
            None if self.optimizer.is_on_device() => SummedGradient::Device(on_device::upload(
                &self.objective.compute,
                self.parameters.specs(),
                &summed.parameters()?,
            )?),
            None => SummedGradient::Host(summed),
        };
        Ok((gradient, numbers))
    }

    /// Updates the parameters with a summed gradient, which is multiplied by `factor` first.
    fn apply(&mut self, gradient: &mut SummedGradient<'_>, factor: f32, update: u64) -> Result<(), Failure> {
        match gradient {
            SummedGradient::Host(gradient) => {
                Ok(self.optimizer.apply(&mut self.parameters, gradient.own_mut()?, factor, update)?)
            }
            SummedGradient::Device(gradients) => {
                let scaled = on_device::scaled(gradients, factor)?;
                gradients.clear();
                Ok(self.optimizer.apply_on_device(&mut self.parameters, scaled, update)?)
            }
        }
    }

    /// Replaces parameters and all states by those of a checkpoint, on this rank alone.
    pub(super) fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), Failure> {
        let tensors = checkpoint.parameters()?;
        let specs = self.parameters.specs().iter();
        let expected: Vec<_> = specs.map(|spec| (spec.name.as_str(), spec.shape.as_slice())).collect();
        let arrays = tensors.arrays(&expected)?;
        for (tensor, array) in self.parameters.tensors_mut().iter_mut().zip(arrays) {
            *tensor = staging::upload(&self.objective.compute, array)?;
        }
        self.optimizer.hold_all();
        self.layout = Rc::new(self.layout.unsharded());
        self.optimizer.restore(checkpoint)
    }

    /// Runs `body` with the weights for evaluation after update `update` in the place of those that are trained.
    /// Where the states are divided among ranks, all of them call it.
    pub(super) fn with_evaluation_weights<T>(
        &mut self,
        peers: &Peers,
        update: u64,
        body: impl FnOnce(&Self) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let what = format!("the weights for evaluation after update {update}");
        let share = |weights: &mut [&mut [f32]]| shards::share_elements(peers, &self.layout, weights, &what);
        let weights = self.optimizer.evaluation_weights(&self.parameters, update, share)?;
        let Some(mut weights) = weights else { return body(self) };
        let mut swap = |parameters: &mut Parameters| parameters.tensors_mut().swap_with_slice(&mut weights);
        swap(&mut self.parameters);
        let result = body(self);
        swap(&mut self.parameters);
        result
    }
}
