//! Models that are not trained: the reference, and those that the configuration names.

use std::path::Path;
use std::rc::Rc;

use mdt_plugin_api::{Compute, Handle, ModelSpec, ParameterSpec, TrainerContext};

use super::agree;
use crate::config;
use crate::exit::{Failure, Status};
use crate::job::{Job, OpenedModel};
use crate::memory::{gibibytes, memory};
use crate::model::{DescribedModel, Directory, FrozenModels, Holding, Parameters, TrainedModel};
use crate::peers::Peers;
use crate::storage::Array;

/// A model that is not trained, and its weights. Compute thread only.
struct FrozenModel {
    name: String,
    model: DescribedModel,
    parameters: Parameters,
}

/// All of them.
#[derive(Default)]
pub struct Frozen(Vec<FrozenModel>);

impl Frozen {
    /// Loads the models of a job, as the trainer needs them. Beside an adapter the reference is the model without it, which takes
    /// no memory of its own.
    ///
    /// # Errors
    /// A model cannot be used; together with the trained one they do not fit into memory.
    pub fn load(job: &Job, opened: &OpenedModel, parameters: &Parameters) -> Result<Self, Failure> {
        let others = further_models(job)?;
        let trained = elements(opened.model.spec());
        let mut sizes = vec![("the trained model".to_owned(), trained)];
        let needs_reference = needs_reference(opened);
        let shared = match opened.adapter {
            Some(_) if needs_reference => parameters.without_adapter(&opened.model.spec().parameters)?,
            _ => None,
        };
        if needs_reference && shared.is_none() {
            sizes.push((TrainerContext::REFERENCE.to_owned(), trained));
        }
        sizes.extend(others.iter().map(|(name, _, model)| (name.clone(), elements(model.spec()))));
        require_memory(&sizes)?;
        let mut frozen = Vec::new();
        if needs_reference {
            let (name, model) = (TrainerContext::REFERENCE.to_owned(), opened.model.clone());
            let parameters = shared.map_or_else(|| opened.frozen_weights(), Ok)?;
            frozen.push(FrozenModel { name, model, parameters });
        }
        for (name, directory, model) in others {
            let specs = model.spec().parameters.iter().cloned().map(ParameterSpec::frozen).collect();
            let holding = Holding { quantize: None, dtype: job.precision()?.dtype, rounds: true };
            let parameters = Parameters::read(&opened.compute, specs, &directory, holding)?;
            frozen.push(FrozenModel { name, model, parameters });
        }
        Ok(Self(frozen))
    }

    /// The same models without memory, for planning, and the bytes of all their weights; none where the device cannot plan.
    ///
    /// # Errors
    /// A model cannot be used.
    pub fn planned(job: &Job, opened: &OpenedModel, parameters: &Parameters) -> Result<Option<(Self, u64)>, Failure> {
        let (mut frozen, mut bytes) = (Vec::new(), 0);
        if needs_reference(opened) {
            let shared = match opened.adapter {
                Some(_) => parameters.without_adapter(&opened.model.spec().parameters)?,
                None => None,
            };
            let is_shared = shared.is_some();
            let own = if is_shared { shared } else { opened.planned_frozen_weights()? };
            let Some(parameters) = own else { return Ok(None) };
            bytes += if is_shared { 0 } else { parameters.bytes()? };
            let (name, model) = (TrainerContext::REFERENCE.to_owned(), opened.model.clone());
            frozen.push(FrozenModel { name, model, parameters });
        }
        for (name, directory, model) in further_models(job)? {
            let specs = model.spec().parameters.iter().cloned().map(ParameterSpec::frozen).collect();
            let holding = Holding { quantize: None, dtype: job.precision()?.dtype, rounds: true };
            let Some(parameters) = Parameters::planned(&opened.compute, specs, Some(&directory), holding)? else {
                return Ok(None);
            };
            bytes += parameters.bytes()?;
            frozen.push(FrozenModel { name, model, parameters });
        }
        Ok(Some((Self(frozen), bytes)))
    }

    /// Checks that all ranks have the same bits.
    pub fn require_same_bits(&self, peers: &Peers) -> Result<(), Failure> {
        self.0.iter().try_for_each(|FrozenModel { name, parameters, .. }| {
            let what = format!("the weights of the frozen model `{name}`");
            let agree =
                |arrays: &[Array<'_>]| agree::require_same_bits(peers, &what, arrays.iter().map(|array| array.data));
            parameters.with_arrays(agree)?;
            parameters.with_frozen_bytes(|arrays| agree::require_same_bytes(peers, &what, arrays.iter().copied()))?;
            agree::require_same_quantised(peers, &what, parameters)
        })
    }

    /// The handles of all weights, for the inputs of a function that is differentiated.
    pub fn handles(&self) -> Vec<Handle> {
        self.0
            .iter()
            .flat_map(|FrozenModel { parameters, .. }| [parameters.handles(), parameters.frozen_handles()].concat())
            .collect()
    }

    /// The models over weights that such a function was given, from the start of `inputs`; returns the other inputs, too.
    pub fn bind_handles<'a>(
        &self,
        compute: &Rc<dyn Compute>,
        mut inputs: &'a [Handle],
    ) -> (FrozenModels, &'a [Handle]) {
        let mut models = FrozenModels::new();
        for FrozenModel { name, model, parameters } in &self.0 {
            let (own, rest) = inputs.split_at(parameters.handles().len() + parameters.frozen_handles().len());
            let weights = Parameters::bind_handles(parameters.names(), compute, own.iter().copied());
            models.insert(name.clone(), Rc::new(TrainedModel::new(model, weights, compute)));
            inputs = rest;
        }
        (models, inputs)
    }

    /// The models, outside of a gradient.
    pub fn bind(&self, compute: &Rc<dyn Compute>) -> FrozenModels {
        self.bind_handles(compute, &self.handles()).0
    }
}

/// The models that the configuration names, checked.
fn further_models(job: &Job) -> Result<Vec<(String, Directory, DescribedModel)>, Failure> {
    let models = &job.resolved.settings.trainer.models;
    if models.contains_key(TrainerContext::REFERENCE) {
        return Err(Failure::configuration(
            "`trainer.models.reference` is the name of the trained model's first weights",
        )
        .help("give the model another name"));
    }
    let open = |(name, settings): (&String, &config::FrozenModel)| {
        let opened = open(job, &settings.path).map_err(|failure| failure.at(format!("trainer.models.{name}")));
        opened.map(|(directory, model)| (name.clone(), directory, model))
    };
    models.iter().map(open).collect()
}

fn needs_reference(opened: &OpenedModel) -> bool {
    opened.trainer.reference.as_ref().is_some_and(|ability| ability.needs_reference())
}

fn open(job: &Job, path: &Path) -> Result<(Directory, DescribedModel), Failure> {
    let directory = Directory::open(path)?;
    let model = job.other_model(&directory)?;
    Parameters::check(&model.spec().parameters, &directory)?;
    Ok((directory, model))
}

fn elements(model: &ModelSpec) -> u64 {
    let elements = |shape: &[usize]| shape.iter().fold(1_u64, |size, &axis| size.saturating_mul(axis as u64));
    model
        .parameters
        .iter()
        .filter(|spec| spec.tied_to.is_none())
        .map(|spec| elements(&spec.shape))
        .fold(0, u64::saturating_add)
}

/// Checks that the weights of all models fit into memory together; one alone is checked elsewhere.
fn require_memory(sizes: &[(String, u64)]) -> Result<(), Failure> {
    let bytes = |elements: u64| elements.saturating_mul(size_of::<f32>() as u64);
    let all = sizes.iter().map(|(_, elements)| bytes(*elements)).fold(0, u64::saturating_add);
    let Some(total) = memory().map(|memory| memory.total).filter(|&total| sizes.len() > 1 && all > total) else {
        return Ok(());
    };
    let message =
        format!("the weights of the models take {}, and the machine has {}", gibibytes(all), gibibytes(total));
    let each = sizes.iter().map(|(name, elements)| format!("{name} takes {}", gibibytes(bytes(*elements))));
    let failure = each.fold(Failure::new(Status::Input, message), Failure::because);
    Err(failure.help("choose smaller models, or a machine with more memory"))
}
