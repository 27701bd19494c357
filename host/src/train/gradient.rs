//! The loss and gradient of one micro-batch, from host rows to host memory.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use mdt_plugin_api::{Batch, Compute, Error, Handle, HostBatch, Model, Result, Tensor, Trainer, TrainerContext};

use rayon::prelude::*;

use super::accumulate::Partial;
use crate::model::{Parameters, TrainedModel};

/// Position of the summed loss among a partial result's scalars.
pub const LOSS: usize = 0;
/// Position of the weight that it is divided by.
pub const WEIGHT: usize = 1;
/// Position of the number of tokens without padding.
pub const TOKENS: usize = 2;
/// Position of the number of supervised tokens.
pub const SUPERVISED: usize = 3;
/// Position of the first metric of the trainer's.
pub const METRICS: usize = 4;

/// A model and an objective on a device. Compute thread only.
pub struct Objective {
    compute: Rc<dyn Compute>,
    model: Rc<dyn Model>,
    trainer: Arc<dyn Trainer>,
    /// The names of the trainer's metrics, learned from its first loss.
    metrics: RefCell<Vec<String>>,
}

impl Objective {
    /// An objective of these parts.
    pub fn new(compute: Rc<dyn Compute>, model: Rc<dyn Model>, trainer: Arc<dyn Trainer>) -> Self {
        Self { compute, model, trainer, metrics: RefCell::default() }
    }

    /// The names of the trainer's metrics, in the order of the scalars from [`METRICS`] on.
    pub fn metric_names(&self) -> Vec<String> {
        self.metrics.borrow().clone()
    }

    /// Loss and gradient of a micro-batch. `gradient` is memory for the result, of the parameters' total length.
    pub fn gradient(&self, parameters: &Parameters, batch: &HostBatch, mut gradient: Vec<f32>) -> Result<Partial> {
        let (names, inputs) = self.upload(batch)?;
        let index = Rc::clone(parameters.index());
        let mut function = |parameters: &[Handle], inputs: &[Handle]| -> Result<Vec<Handle>> {
            let weights = Parameters::bind_handles(&index, &self.compute, parameters);
            let tensors = inputs.iter().map(|&handle| Tensor::borrowed(&self.compute, handle));
            let batch = Batch::new(names.iter().cloned().zip(tensors).collect());
            self.loss(weights, &batch)?.into_iter().map(Tensor::into_handle).collect()
        };
        let handles: Vec<Handle> = inputs.iter().map(Tensor::handle).collect();
        let result = self.compute.value_and_grad(&mut function, &parameters.handles(), &handles)?;
        let owned = |handles: Vec<Handle>| -> Vec<Tensor> {
            handles.into_iter().map(|handle| Tensor::from_handle(&self.compute, handle)).collect()
        };
        let (values, gradients) = (owned(result.values), owned(result.gradients));
        let all: Vec<Handle> = values.iter().chain(&gradients).map(Tensor::handle).collect();
        self.compute.eval(&all)?;

        let mut rest = gradient.as_mut_slice();
        for (tensor, spec) in gradients.iter().zip(parameters.specs()) {
            let part = rest
                .split_off_mut(..spec.shape.iter().product())
                .ok_or_else(|| Error::other("the gradient buffer is shorter than the parameters"))?;
            tensor.host_view()?.copy_to(part)?;
        }
        Ok(Partial { gradient, scalars: scalars(&values, batch)? })
    }

    /// The loss alone, as scalars.
    pub fn evaluate(&self, parameters: &Parameters, batch: &HostBatch) -> Result<Vec<f64>> {
        let (names, inputs) = self.upload(batch)?;
        let values = self.loss(parameters.bind(), &Batch::new(names.into_iter().zip(inputs).collect()))?;
        scalars(&values, batch)
    }

    fn upload(&self, batch: &HostBatch) -> Result<(Vec<String>, Vec<Tensor>)> {
        let names = batch.arrays.iter().map(|(name, _)| name.clone()).collect();
        let tensors = batch.arrays.iter().map(|(_, array)| Tensor::from_host(&self.compute, array));
        Ok((names, tensors.collect::<Result<_>>()?))
    }

    /// The loss's sum, its weight, the metrics.
    fn loss(&self, weights: Rc<crate::model::BoundWeights>, batch: &Batch) -> Result<Vec<Tensor>> {
        let model = TrainedModel::new(&self.model, weights, &self.compute);
        let ctx = TrainerContext::new(Rc::new(model), Rc::clone(&self.compute));
        let loss = self.trainer.loss(&ctx, batch)?;
        let (names, metrics): (Vec<_>, Vec<_>) = loss.metrics.into_iter().unzip();
        self.metrics.replace(names);
        Ok([loss.sum, loss.weight].into_iter().chain(metrics).collect())
    }
}

fn scalars(values: &[Tensor], batch: &HostBatch) -> Result<Vec<f64>> {
    let mut values = values.iter().map(Tensor::item).collect::<Result<Vec<_>>>()?;
    values.splice(TOKENS..TOKENS, [batch.tokens as f64, batch.supervised_tokens as f64]);
    Ok(values)
}

/// Whether everything in a partial result is a finite number.
pub fn is_finite(partial: &Partial) -> bool {
    partial.scalars.iter().all(|value| value.is_finite()) && all_finite(&partial.gradient)
}

/// Whether all of these are finite numbers.
pub fn all_finite(values: &[f32]) -> bool {
    // What is left of a number times zero is zero, or not a number, and so is the sum: one pass without branches.
    let clean = |chunk: &[f32]| chunk.iter().fold(0.0f32, |sum, value| sum + value * 0.0) == 0.0;
    values.par_chunks(1 << 16).all(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_that_is_not_finite_is_found_anywhere() {
        let partial = |place: usize, value| {
            let mut gradient = vec![1.0; 200_000];
            gradient[place] = value;
            Partial { gradient, scalars: vec![1.0] }
        };
        assert!(is_finite(&partial(7, f32::MAX)));
        assert!(is_finite(&partial(7, -0.0)));
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in [0, 65_536, 199_999] {
                assert!(!is_finite(&partial(place, value)), "{value} at {place}");
            }
        }
        assert!(!is_finite(&Partial { gradient: vec![], scalars: vec![1.0, f64::NAN] }));
    }
}
