//! The loss and gradient of one micro-batch, from host rows to host memory.

use std::rc::Rc;
use std::sync::Arc;

use mdt_plugin_api::{
    Batch, Compute, Error, Handle, HostBatch, Metric, Model, Result, Tensor, Trainer, TrainerContext,
};

use super::accumulate::Sums;
use crate::model::{BoundWeights, Parameters, TrainedModel, Training};
use crate::staging;

/// A model and a trainer's loss on a device. Compute thread only.
pub struct Objective {
    pub compute: Rc<dyn Compute>,
    pub model: Rc<dyn Model>,
    /// What turns rows into batches, and batches into a loss.
    pub trainer: Arc<dyn Trainer>,
}

impl Objective {
    /// Loss and gradient of a micro-batch: the gradient of each parameter, computed, on the device.
    pub fn gradient(
        &self,
        parameters: &Parameters,
        batch: &HostBatch,
        training: Training,
    ) -> Result<(Vec<Tensor>, Sums)> {
        let (names, inputs) = self.upload(batch)?;
        let names_of_weights = Rc::clone(parameters.names());
        let frozen = parameters.frozen_handles();
        let mut metrics = Vec::new();
        let mut function = |parameters: &[Handle], inputs: &[Handle]| -> Result<Vec<Handle>> {
            let (frozen, inputs) = inputs.split_at(frozen.len());
            let handles = parameters.iter().chain(frozen).copied();
            let weights = Parameters::bind_handles(&names_of_weights, &self.compute, handles);
            let tensors = inputs.iter().map(|&handle| Tensor::borrowed(&self.compute, handle));
            let batch = Batch::new(names.iter().cloned().zip(tensors).collect());
            let loss = self.loss(weights, &batch, Some(training))?;
            metrics = loss.metrics;
            loss.values.into_iter().map(Tensor::into_handle).collect()
        };
        let handles: Vec<Handle> = frozen.iter().copied().chain(inputs.iter().map(Tensor::handle)).collect();
        let result = self.compute.value_and_grad(&mut function, &parameters.handles(), &handles)?;
        let owned = |handles: Vec<Handle>| -> Vec<Tensor> {
            handles.into_iter().map(|handle| Tensor::from_handle(&self.compute, handle)).collect()
        };
        let (values, gradients) = (owned(result.values), owned(result.gradients));
        let all: Vec<Handle> = values.iter().chain(&gradients).map(Tensor::handle).collect();
        self.compute.eval(&all)?;

        Ok((gradients, LossValues { values, metrics }.read(batch)?))
    }

    /// The loss alone.
    pub fn evaluate(&self, parameters: &Parameters, batch: &HostBatch) -> Result<Sums> {
        let (names, inputs) = self.upload(batch)?;
        self.loss(parameters.bind(), &Batch::new(names.into_iter().zip(inputs).collect()), None)?.read(batch)
    }

    fn upload(&self, batch: &HostBatch) -> Result<(Vec<String>, Vec<Tensor>)> {
        let names = batch.arrays.iter().map(|(name, _)| name.clone()).collect();
        let tensors = batch.arrays.iter().map(|(_, array)| staging::upload(&self.compute, array.borrow()));
        Ok((names, tensors.collect::<Result<_>>()?))
    }

    fn loss(&self, weights: Rc<BoundWeights>, batch: &Batch, training: Option<Training>) -> Result<LossValues> {
        let model = TrainedModel::new(&self.model, weights, &self.compute);
        let model = match training {
            Some(training) => model.in_training(training),
            None => model,
        };
        let ctx = TrainerContext::new(Rc::new(model), Rc::clone(&self.compute));
        let loss = self.trainer.loss(&ctx, batch)?;
        let (mut values, mut metrics) = (vec![loss.sum, loss.weight], Vec::new());
        for Metric { name, sum, weight } in loss.metrics {
            metrics.push(name);
            values.extend([sum, weight]);
        }
        Ok(LossValues { values, metrics })
    }
}

/// The scalars of a loss on the device: its sum, its weight, sum and weight of each metric.
struct LossValues {
    values: Vec<Tensor>,
    /// The names of the metrics.
    metrics: Vec<String>,
}

impl LossValues {
    fn read(&self, batch: &HostBatch) -> Result<Sums> {
        let values = self.values.iter().map(Tensor::item).collect::<Result<Vec<_>>>()?;
        let [loss, weight, metrics @ ..] = values.as_slice() else {
            return Err(Error::plugin("the compute plugin gave fewer values back than the loss has"));
        };
        let mut sums = Sums::of_numbers([*loss, *weight, batch.tokens as f64, batch.supervised_tokens as f64]);
        for (name, &[sum, weight]) in self.metrics.iter().zip(metrics.as_chunks().0) {
            sums.add_metric(name.clone(), [sum, weight]);
        }
        Ok(sums)
    }
}
