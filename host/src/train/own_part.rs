//! This rank's part of an update: its micro-batches, one after another, and the beginning of their sum over ranks.
//!
//! All micro-batches but the last are added up as they come. The gradient of the last one is computed bucket by bucket,
//! and each bucket of the sum is on its way to the other ranks while the next one is computed.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mdt_plugin_api::{HostBatch, Result, Tensor};

use super::accumulate::{Accumulator, Gradient, NOTHING, Partial, Sums};
use super::gradient::LazyGradient;
use super::guard::Guard;
use super::layout::{Bucket, GradientLayout};
use super::on_device;
use super::prefetch::{Ahead, MicroBatch};
use super::prepare::Place;
use super::reduction::Reduction;
use super::update::Learner;
use crate::data::RowLocation;
use crate::exit::Failure;
use crate::finite::all_finite;
use crate::model::{Randomness, Training};
use crate::staging;

/// What a rank has of an update. Compute thread only.
pub(super) struct OwnPart<'a> {
    update: u64,
    name_rows: &'a dyn Fn(&[RowLocation]) -> String,
    cancelled: &'a AtomicBool,
    pub(super) guard: Guard,
    pub(super) data_wait: Duration,
    /// How long it took to take and compute its micro-batches, but for what is computed while they are summed.
    pub(super) accumulated: Duration,
    /// The numbers of its micro-batches, once all of them are computed.
    pub(super) sums: Sums,
    /// Micro-batches that have something to train.
    trained: f64,
    /// The last one, whose gradient goes straight into the sum.
    last: Option<Last>,
}

/// The last micro-batch of a rank.
struct Last {
    rows: Vec<RowLocation>,
    /// The gradient of its last batch.
    gradient: LazyGradient,
    gradient_is_finite: bool,
    /// Its other batches.
    earlier: Accumulator,
}

/// A micro-batch as a leaf of the update's sum.
struct Leaf {
    partial: Partial,
    gradient_is_finite: bool,
}

impl<'a> OwnPart<'a> {
    pub(super) fn new(update: u64, name_rows: &'a dyn Fn(&[RowLocation]) -> String, cancelled: &'a AtomicBool) -> Self {
        Self {
            update,
            name_rows,
            cancelled,
            guard: Guard::default(),
            data_wait: Duration::ZERO,
            accumulated: Duration::ZERO,
            sums: Sums::NONE,
            trained: 0.0,
            last: None,
        }
    }

    /// Takes the micro-batches and computes them, but for the gradient of the last one where buckets overlap.
    pub(super) fn accumulate(
        &mut self,
        learner: &mut Learner,
        mut micro_batches: impl Iterator<Item = std::result::Result<MicroBatch, Failure>>,
    ) -> std::result::Result<(), Failure> {
        let begin = Instant::now();
        let mut take = |data_wait: &mut Duration| {
            let begin = Instant::now();
            let next = micro_batches.next();
            *data_wait += begin.elapsed();
            next
        };
        let (mut next, mut micro_batch) = (take(&mut self.data_wait), 0);
        // A rank that is cancelled goes on to the sum, which tells the others: they would wait for it.
        while let Some(current) = next
            && !self.cancelled.load(Ordering::Relaxed)
        {
            let MicroBatch { rows, batch } = current?;
            next = take(&mut self.data_wait);
            let training = learner.training(self.update, micro_batch);
            micro_batch += 1;
            let computed = batch.and_then(|batch| {
                let Some(batch) = batch else {
                    let nothing = learner.nothing();
                    return learner.accumulator.push(nothing);
                };
                self.trained += 1.0;
                let batches = learner.batches(self.update, batch)?;
                if next.is_none() && !learner.optimizer.is_on_device() {
                    self.last = Some(learner.last_micro_batch(rows.clone(), &batches, training)?);
                    return Ok(());
                }
                let leaf = learner.micro_batch(&batches, training)?;
                self.guard.inspect(&rows, &leaf.partial.sums, leaf.gradient_is_finite);
                learner.accumulator.push(leaf.partial)
            });
            computed.map_err(|error| self.at_rows(error.into(), &rows))?;
        }
        self.accumulated = begin.elapsed();
        Ok(())
    }

    /// Gives the gradient of all micro-batches to the sum over ranks, bucket by bucket, with its numbers. Returns the
    /// gradient on the device, where it stays there because there is no other rank.
    pub(super) fn begin_sum(
        &mut self,
        learner: &mut Learner,
        reduction: &mut Reduction<'_>,
    ) -> std::result::Result<Option<Vec<Tensor>>, Failure> {
        let mut on_device = match learner.optimizer.is_on_device() {
            true => {
                let (gradients, sums) = learner.accumulator.finish_on_device()?;
                self.sums = sums;
                if reduction.is_of_one_rank() {
                    reduction.add_numbers(self.numbers())?;
                    return Ok(Some(gradients));
                }
                Some(gradients)
            }
            false => None,
        };
        let layout = reduction.layout();
        for (number, bucket) in layout.buckets().iter().enumerate() {
            let mut buffer = reduction.memory_of(bucket)?;
            let elements = buffer.as_mut_slice::<f32>()?;
            match (&mut on_device, &mut self.last) {
                (Some(gradients), _) if !gradients.is_empty() => {
                    read(&gradients.split_off(bucket.parameters.start), layout, bucket, elements)?;
                }
                (_, Some(last)) => {
                    let written = last.write(layout, bucket, elements);
                    let rows = &last.rows;
                    written.map_err(|error| at_rows(error.into(), self.update, self.name_rows, rows))?;
                }
                _ => elements.fill(NOTHING),
            }
            if on_device.is_none() {
                learner.accumulator.add_to(elements, bucket.places.clone())?;
            }
            let is_last = number + 1 == layout.buckets().len();
            let numbers = if is_last { Some(self.finish_numbers(learner)?) } else { None };
            reduction.add(bucket, buffer, numbers)?;
        }
        Ok(None)
    }

    /// The numbers of this rank, once all of its gradients are computed.
    fn finish_numbers(&mut self, learner: &mut Learner) -> std::result::Result<[f64; 8], Failure> {
        if !learner.optimizer.is_on_device() {
            let last = match self.last.take() {
                None => Sums::NONE,
                Some(Last { rows, gradient, gradient_is_finite, mut earlier }) => {
                    let sums = gradient.sums().map(|sums| earlier.finish_numbers(sums));
                    let sums = sums.map_err(|error| self.at_rows(error.into(), &rows))?;
                    self.guard.inspect(&rows, &sums, gradient_is_finite);
                    sums
                }
            };
            self.sums = learner.accumulator.finish_numbers(last);
        }
        Ok(self.numbers())
    }

    fn numbers(&self) -> [f64; 8] {
        let ([loss, weight, tokens, supervised], flags) = (self.sums.numbers(), self.guard.flags());
        let cancelled = f64::from(u8::from(self.cancelled.load(Ordering::Relaxed)));
        [loss, weight, tokens, supervised, flags[0], flags[1], cancelled, self.trained]
    }

    fn at_rows(&self, failure: Failure, rows: &[RowLocation]) -> Failure {
        at_rows(failure, self.update, self.name_rows, rows)
    }
}

fn at_rows(
    failure: Failure,
    update: u64,
    name_rows: &dyn Fn(&[RowLocation]) -> String,
    rows: &[RowLocation],
) -> Failure {
    failure.at(format!("update {update}, {}", name_rows(rows)))
}

impl Last {
    /// Writes the gradients of a bucket, with those of the earlier batches added. Buckets come in their order.
    fn write(&mut self, layout: &GradientLayout, bucket: &Bucket, elements: &mut [f32]) -> Result<()> {
        let Range { start, .. } = bucket.parameters;
        self.gradient.compute(bucket.parameters.clone())?;
        read(&self.gradient.take_from(start), layout, bucket, elements)?;
        let is_finite = |range: Range<usize>| all_finite(&elements[range]);
        self.gradient_is_finite &= layout.places_in(bucket).all(is_finite);
        self.earlier.add_to(elements, bucket.places.clone())
    }
}

/// Copies the gradients of a bucket's parameters to its memory.
fn read(gradients: &[Tensor], layout: &GradientLayout, bucket: &Bucket, elements: &mut [f32]) -> Result<()> {
    let mut pieces = layout.pieces_of(bucket);
    for (gradient, parameter) in gradients.iter().zip(bucket.parameters.clone()) {
        let count = pieces.iter().take_while(|piece| piece.parameter == parameter).count();
        let Some(own) = pieces.split_off(..count) else { break };
        let start = |place: usize| place - bucket.places.start;
        match own {
            [piece] => staging::read(gradient, &mut elements[start(piece.place)..][..piece.elements.len()])?,
            pieces => staging::with_slice(gradient, |whole| {
                for piece in pieces {
                    let part = &mut elements[start(piece.place)..][..piece.elements.len()];
                    part.copy_from_slice(&whole[piece.elements.clone()]);
                }
                Ok(())
            })?,
        }
    }
    Ok(())
}

impl Learner {
    /// How the model computes a micro-batch of this rank.
    fn training(&self, update: u64, micro_batch: u64) -> Training {
        let micro_batch = self.first_micro_batch + micro_batch;
        Training { randomness: Randomness { seed: self.seed, update, micro_batch }, recompute: self.recompute }
    }

    /// The batches of a micro-batch.
    fn batches(&self, update: u64, ahead: Ahead) -> Result<Vec<HostBatch>> {
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
            let mut gradient = self.accumulator.buffer(self.layout.length());
            gradient.fill(NOTHING);
            Gradient::Host(gradient)
        };
        Partial { gradient, sums: Sums::NONE }
    }

    /// Loss and gradient of a micro-batch: those of its batches, added.
    fn micro_batch(&mut self, batches: &[HostBatch], training: Training) -> Result<Leaf> {
        let (mut sum, mut gradient_is_finite) = (Accumulator::default(), true);
        for batch in batches {
            let leaf = self.batch(batch, training)?;
            gradient_is_finite &= leaf.gradient_is_finite;
            sum.push(leaf.partial)?;
        }
        Ok(Leaf { partial: sum.finish()?.unwrap_or_else(|| self.nothing()), gradient_is_finite })
    }

    /// The same of the last micro-batch, whose last batch is computed later where buckets overlap.
    fn last_micro_batch(&mut self, rows: Vec<RowLocation>, batches: &[HostBatch], training: Training) -> Result<Last> {
        let [earlier @ .., batch] = batches else {
            return Err(mdt_plugin_api::Error::other("a micro-batch has no batch"));
        };
        let (mut sum, mut gradient_is_finite) = (Accumulator::default(), true);
        for batch in earlier {
            let leaf = self.batch(batch, training)?;
            gradient_is_finite &= leaf.gradient_is_finite;
            sum.push(leaf.partial)?;
        }
        let gradient = self.objective.begin_gradient(&self.parameters, batch, training)?;
        if !self.overlaps {
            gradient.compute(0..self.parameters.specs().len())?;
        }
        Ok(Last { rows, gradient, gradient_is_finite, earlier: sum })
    }

    /// Loss and gradient of a batch, the gradient where the update takes it.
    fn batch(&mut self, batch: &HostBatch, training: Training) -> Result<Leaf> {
        let (gradients, sums) = self.objective.gradient(&self.parameters, batch, training)?;
        if self.optimizer.is_on_device() {
            let gradient_is_finite = on_device::all_finite(&gradients)?;
            return Ok(Leaf { partial: Partial { gradient: Gradient::Device(gradients), sums }, gradient_is_finite });
        }
        let mut gradient = self.accumulator.buffer(self.layout.length());
        let mut gradient_is_finite = true;
        for bucket in self.layout.buckets() {
            let elements = &mut gradient[bucket.places.clone()];
            read(&gradients[bucket.parameters.clone()], &self.layout, bucket, elements)?;
            gradient_is_finite &= self.layout.places_in(bucket).all(|range| all_finite(&elements[range]));
        }
        Ok(Leaf { partial: Partial { gradient: Gradient::Host(gradient), sums }, gradient_is_finite })
    }
}
