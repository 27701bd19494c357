//! The optimizer with its states: new weights from the mean gradient, over slices of host memory.

use std::collections::HashSet;

use mdt_plugin_api::{
    Error, Granularity, HostViewMut, Optimizer, ParameterSpec, Result, StateShape, StateSpec, Tensor, Update,
};
use rayon::prelude::*;

use crate::config;
use crate::exit::{Failure, Status};
use crate::model::Parameters;

/// Elements of a slice that one task updates.
const CHUNK: usize = 1 << 16;

/// An optimizer with the states of every parameter.
pub struct StatefulOptimizer {
    optimizer: Box<dyn Optimizer>,
    specs: Vec<StateSpec>,
    granularity: Granularity,
    /// One vector per state: all parameters one after another, or a number for each.
    states: Vec<Vec<f32>>,
    /// The weight decay of each parameter.
    decay: Vec<f64>,
}

impl StatefulOptimizer {
    /// An optimizer whose states have their initial values. [`check_states`] has passed.
    pub fn new(optimizer: Box<dyn Optimizer>, parameters: &Parameters, settings: &config::Optimizer) -> Self {
        let specs = optimizer.states();
        let granularity = optimizer.granularity();
        let states = specs
            .iter()
            .map(|spec| {
                let length = match spec.shape {
                    StateShape::Parameter => parameters.elements(),
                    StateShape::Scalar => parameters.specs().len(),
                };
                vec![spec.initial; length]
            })
            .collect();
        let decay = parameters.specs().iter().map(|spec| settings.weight_decay_of(&spec.name)).collect();
        Self { optimizer, specs, granularity, states, decay }
    }

    /// Updates every parameter in place. `gradient` is the clipped mean, all parameters one after another.
    ///
    /// # Errors
    /// The optimizer failed or panicked; the weights are then partly updated and must not be saved.
    pub fn apply(
        &mut self,
        parameters: &mut Parameters,
        gradient: &[f32],
        step: u64,
        learning_rate: f64,
    ) -> Result<()> {
        let chunk = match self.granularity {
            Granularity::Element => CHUNK,
            Granularity::Tensor => usize::MAX,
        };
        let specs = parameters.specs().to_vec();
        let mut views: Vec<HostViewMut<'_>> =
            parameters.tensors_mut().iter_mut().map(Tensor::host_view_mut).collect::<Result<_>>()?;
        let mut tasks = Vec::new();
        let mut gradient = gradient;
        let mut states: Vec<&mut [f32]> = self.states.iter_mut().map(Vec::as_mut_slice).collect();
        for ((view, spec), &weight_decay) in views.iter_mut().zip(&specs).zip(&self.decay) {
            let mut parameter = view.as_mut_slice::<f32>()?;
            let update = Update { name: &spec.name, shape: &spec.shape, step, learning_rate, weight_decay };
            while !parameter.is_empty() {
                let length = parameter.len().min(chunk);
                let mut task_states = Vec::with_capacity(states.len());
                for (state, spec) in states.iter_mut().zip(&self.specs) {
                    let length = if spec.shape == StateShape::Scalar { 1 } else { length };
                    task_states.push(state.split_off_mut(..length).ok_or_else(short)?);
                }
                let task_gradient = gradient.split_off(..length).ok_or_else(short)?;
                let task_parameter = parameter.split_off_mut(..length).ok_or_else(short)?;
                tasks.push((update.clone(), task_parameter, task_gradient, task_states));
            }
        }
        tasks.into_par_iter().try_for_each(|(update, parameter, gradient, mut states)| {
            self.optimizer.update(&update, parameter, gradient, &mut states)
        })
    }

    /// The states as arrays for a checkpoint, named `<parameter>.<state>`.
    pub fn arrays<'a>(&'a self, parameters: &Parameters) -> Vec<StateArray<&'a [f32]>> {
        let states = self.states.iter().map(Vec::as_slice);
        state_arrays(&self.specs, states, parameters, |rest, length| rest.split_off(..length))
    }

    /// The same arrays for writing, in the same order.
    pub fn arrays_mut<'a>(&'a mut self, parameters: &Parameters) -> Vec<StateArray<&'a mut [f32]>> {
        let states = self.states.iter_mut().map(Vec::as_mut_slice);
        state_arrays(&self.specs, states, parameters, |rest, length| rest.split_off_mut(..length))
    }
}

/// Checks, before training, that the states of the optimizer `id` can be kept and saved.
///
/// # Errors
/// Status 3: two have the same name in checkpoints, one does not start as a finite number, or slices would share one.
pub fn check_states(optimizer: &dyn Optimizer, id: &str, parameters: &[ParameterSpec]) -> Result<(), Failure> {
    let failure = |what: String| Failure::new(Status::Plugin, format!("the optimizer `{id}` declares {what}"));
    let specs = optimizer.states();
    let mut names = HashSet::new();
    for spec in &specs {
        if !spec.initial.is_finite() {
            return Err(failure(format!("the state `{}`, which starts as {}", spec.name, spec.initial))
                .help("a state starts as a finite number"));
        }
        if spec.shape == StateShape::Scalar && optimizer.granularity() == Granularity::Element {
            return Err(failure(format!("the scalar state `{}` and updates slices of parameters", spec.name))
                .because("every slice would update the same number")
                .help("its author declares `Granularity::Tensor`"));
        }
        if !names.insert(spec.name.clone()) {
            return Err(failure(format!("two states of the name `{}`", spec.name)));
        }
    }
    names.clear();
    for name in parameters.iter().flat_map(|parameter| specs.iter().map(|state| array_name(parameter, state))) {
        if let Some(name) = names.replace(name) {
            return Err(failure(format!("states of which two would be saved as `{name}`")));
        }
    }
    Ok(())
}

/// The name of a state in checkpoints.
fn array_name(parameter: &ParameterSpec, state: &StateSpec) -> String {
    format!("{}.{}", parameter.name, state.name)
}

/// One state of one parameter.
pub struct StateArray<T> {
    /// `<parameter>.<state>`.
    pub name: String,
    /// Length of each axis.
    pub shape: Vec<usize>,
    pub data: T,
}

/// The arrays of all states: one for each parameter, which `take` takes off the front of the state's elements.
fn state_arrays<T>(
    specs: &[StateSpec],
    states: impl Iterator<Item = T>,
    parameters: &Parameters,
    take: impl Fn(&mut T, usize) -> Option<T>,
) -> Vec<StateArray<T>> {
    let mut arrays = Vec::new();
    for (spec, mut rest) in specs.iter().zip(states) {
        arrays.extend(parameters.specs().iter().filter_map(|parameter| {
            let shape = match spec.shape {
                StateShape::Parameter => parameter.shape.clone(),
                StateShape::Scalar => vec![1],
            };
            let data = take(&mut rest, shape.iter().product())?;
            Some(StateArray { name: array_name(parameter, spec), shape, data })
        }));
    }
    arrays
}

fn short() -> Error {
    Error::other("the gradient or a state is shorter than the parameters")
}
