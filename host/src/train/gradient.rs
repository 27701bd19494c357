//! The loss and gradient of one micro-batch, from host rows to host memory.

use std::ops::Range;
use std::rc::Rc;

use mdt_plugin_api::register::TrainerComponent;
use mdt_plugin_api::{
    Batch, Compute, Error, Handle, HostBatch, Metric, Result, SharedTokenizer, Tensor, TrainerContext,
};

use super::accumulate::Sums;
use super::frozen::Frozen;
use crate::config::Packing;
use crate::data::ItemLimits;
use crate::generation::FirstDrawn;
use crate::job::{Job, OpenedModel};
use crate::model::{
    Adapter, AuxiliaryLoss, AuxiliaryLosses, BoundWeights, DescribedModel, FrozenModels, Parameters, RightTokens,
    TrainedModel, Training,
};
use crate::staging;

/// A model and a trainer's loss on a device. Compute thread only.
pub struct Objective {
    pub compute: Rc<dyn Compute>,
    pub model: DescribedModel,
    /// What is trained beside its weights.
    pub adapter: Option<Adapter>,
    /// What turns rows into batches, and batches into a loss.
    pub trainer: TrainerComponent,
    /// Its name, for errors.
    pub trainer_name: String,
    /// Models that it uses beside the trained one.
    pub frozen: Frozen,
    /// The limits of the items that it prepares.
    pub items: ItemLimits,
    /// How they are packed.
    pub packing: Packing,
    /// The first answer that the trainer drew.
    pub drawn: FirstDrawn,
    /// What makes text of it.
    pub tokenizer: SharedTokenizer,
    /// The job's seed.
    pub seed: u64,
    /// Whether evaluation also counts the tokens that the model would have drawn.
    pub counts_right: bool,
}

/// The metric of evaluation with the share of trained tokens that have the largest logit.
pub const ACCURACY: &str = "token_accuracy";

impl Objective {
    /// The objective of a job.
    pub fn new(job: &Job, opened: OpenedModel, frozen: Frozen) -> Self {
        let OpenedModel { compute, model, adapter, trainer, tokenizer, .. } = opened;
        let settings = &job.resolved.settings;
        let max_seq_len = settings.trainer.max_seq_len as usize;
        let items = ItemLimits::of(max_seq_len, Some(model.spec()));
        let (trainer_name, packing, seed) = (job.trainer_name(), settings.trainer.packing, settings.seed);
        let drawn = FirstDrawn::default();
        Self {
            compute,
            model,
            adapter,
            trainer,
            trainer_name,
            frozen,
            items,
            packing,
            drawn,
            tokenizer,
            seed,
            counts_right: false,
        }
    }

    /// Loss and gradient of a micro-batch: the gradient of each parameter, computed, on the device.
    pub fn gradient(
        &self,
        parameters: &Parameters,
        batch: &HostBatch,
        training: Training,
    ) -> Result<(Vec<Tensor>, Sums)> {
        let mut gradient = self.begin_gradient(parameters, batch, training)?;
        gradient.compute(0..gradient.gradients.len())?;
        Ok((std::mem::take(&mut gradient.gradients), gradient.sums()?))
    }

    /// The same, recorded and not computed yet.
    pub fn begin_gradient(
        &self,
        parameters: &Parameters,
        batch: &HostBatch,
        training: Training,
    ) -> Result<LazyGradient> {
        let (names, inputs) = self.upload(batch)?;
        let names_of_weights = Rc::clone(parameters.names());
        let frozen = parameters.frozen_handles();
        let mut metrics = Vec::new();
        let mut function = |parameters: &[Handle], inputs: &[Handle]| -> Result<Vec<Handle>> {
            let (frozen, inputs) = inputs.split_at(frozen.len());
            let handles = parameters.iter().chain(frozen).copied();
            let weights = Parameters::bind_handles(&names_of_weights, &self.compute, handles);
            let (models, inputs) = self.frozen.bind_handles(&self.compute, inputs);
            let tensors = inputs.iter().map(|&handle| Tensor::borrowed(&self.compute, handle));
            let batch = Batch::new(names.iter().cloned().zip(tensors).collect());
            let loss = self.loss(weights, models, &batch, Some(training), None)?;
            metrics = loss.metrics;
            [loss.objective].into_iter().chain(loss.values).map(Tensor::into_handle).collect()
        };
        // The weights of frozen models are inputs too: the function captures none, and no gradient reaches them.
        let mut handles = [frozen.clone(), self.frozen.handles()].concat();
        handles.extend(inputs.iter().map(Tensor::handle));
        let result = self.compute.value_and_grad(&mut function, &parameters.handles(), &handles)?;
        let owned = |handles: Vec<Handle>| -> Vec<Tensor> {
            handles.into_iter().map(|handle| Tensor::from_handle(&self.compute, handle)).collect()
        };
        let (mut values, gradients) = (owned(result.values), owned(result.gradients));
        if values.is_empty() {
            return Err(too_few_values());
        }
        let objective = values.remove(0);
        Ok(LazyGradient {
            compute: Rc::clone(&self.compute),
            values: LossValues { objective, values, metrics },
            gradients,
            tokens: [batch.tokens, batch.supervised_tokens].map(|tokens| tokens as f64),
        })
    }

    /// The loss alone.
    pub fn evaluate(&self, parameters: &Parameters, batch: &HostBatch) -> Result<Sums> {
        let (names, inputs) = self.upload(batch)?;
        let tensors = Batch::new(names.into_iter().zip(inputs).collect());
        let right = self.counts_right.then(RightTokens::default);
        let mut sums = self
            .loss(parameters.bind(), self.frozen.bind(&self.compute), &tensors, None, right.as_ref())?
            .read([batch.tokens, batch.supervised_tokens].map(|tokens| tokens as f64))?;
        // Where the loss is not that of tokens, as many as are trained, it says nothing.
        if let Some(right) = right.filter(|_| sums.weight == sums.supervised_tokens) {
            let weight = sums.weight;
            sums.metrics.entry(ACCURACY.to_owned()).or_insert([right.number(), weight]);
        }
        Ok(sums)
    }

    fn upload(&self, batch: &HostBatch) -> Result<(Vec<String>, Vec<Tensor>)> {
        let names = batch.arrays.iter().map(|(name, _)| name.clone()).collect();
        let tensors = batch.arrays.iter().map(|(_, array)| staging::upload(&self.compute, array.borrow()));
        Ok((names, tensors.collect::<Result<_>>()?))
    }

    fn loss(
        &self,
        weights: Rc<BoundWeights>,
        frozen: FrozenModels,
        batch: &Batch,
        training: Option<Training>,
        right: Option<&RightTokens>,
    ) -> Result<LossValues> {
        let auxiliary = AuxiliaryLosses::default();
        let model =
            TrainedModel::new(&self.model, weights, &self.compute).with_frozen(frozen).with_auxiliary(&auxiliary);
        let model = match training {
            Some(training) => model.in_training(training),
            None => model,
        };
        let model = match right {
            Some(right) => model.counting(right),
            None => model,
        };
        let ctx = TrainerContext::new(Rc::new(model), Rc::clone(&self.compute));
        let loss = self.trainer.loss(&ctx, batch).map_err(|error| error.called_by(&self.trainer_name))?;
        for (what, tensor) in [("sum", &loss.sum), ("weight", &loss.weight)] {
            let shape = tensor.shape()?;
            if !shape.is_empty() {
                return Err(Error::plugin(format!("the {what} of the loss has shape {shape:?}, and must be a scalar"))
                    .in_component(self.trainer_name.as_str()));
            }
        }
        let mut objective = loss.sum.try_clone()?;
        let mut all_metrics = loss.metrics;
        for AuxiliaryLoss { name, value, weighted } in auxiliary.means()? {
            objective = (&objective + &(&weighted * &loss.weight)?)?;
            all_metrics.push(Metric { name, sum: (&value * &loss.weight)?, weight: loss.weight.try_clone()? });
        }
        let (mut values, mut metrics) = (vec![loss.sum, loss.weight], Vec::new());
        for Metric { name, sum, weight } in all_metrics {
            metrics.push(name);
            values.extend([sum, weight]);
        }
        Ok(LossValues { objective, values, metrics })
    }
}

/// Loss and gradient of a micro-batch on the device, computed part by part.
pub struct LazyGradient {
    compute: Rc<dyn Compute>,
    values: LossValues,
    /// In the order of the parameters, without the last ones that were taken.
    gradients: Vec<Tensor>,
    /// Tokens, and supervised tokens.
    tokens: [f64; 2],
}

impl LazyGradient {
    /// Computes the loss and the gradients of these parameters, and what they need.
    pub fn compute(&self, parameters: Range<usize>) -> Result<()> {
        let LossValues { objective, values, .. } = &self.values;
        let all = [objective].into_iter().chain(values).chain(&self.gradients[parameters]);
        self.compute.eval(&all.map(Tensor::handle).collect::<Vec<_>>())
    }

    /// The gradients of all parameters from this one on, which are then no longer here.
    pub fn take_from(&mut self, parameter: usize) -> Vec<Tensor> {
        self.gradients.split_off(parameter)
    }

    /// The numbers of the micro-batch.
    pub fn sums(&self) -> Result<Sums> {
        self.values.read(self.tokens)
    }
}

/// The scalars of a loss on the device.
struct LossValues {
    /// What is differentiated: the sum of the loss, and of the model's auxiliary losses times the weight.
    objective: Tensor,
    /// The sum of the loss, its weight, sum and weight of each metric.
    values: Vec<Tensor>,
    /// The names of the metrics.
    metrics: Vec<String>,
}

impl LossValues {
    /// Its numbers, beside those of tokens and of supervised tokens.
    fn read(&self, [tokens, supervised]: [f64; 2]) -> Result<Sums> {
        let values = self.values.iter().map(Tensor::item).collect::<Result<Vec<_>>>()?;
        let [loss, weight, metrics @ ..] = values.as_slice() else {
            return Err(too_few_values());
        };
        let mut sums = Sums::of_numbers([*loss, *weight, tokens, supervised]);
        for (name, &[sum, weight]) in self.metrics.iter().zip(metrics.as_chunks().0) {
            sums.add_metric(name.clone(), [sum, weight]);
        }
        Ok(sums)
    }
}

fn too_few_values() -> Error {
    Error::plugin("the compute plugin gave fewer values back than the loss has")
}
