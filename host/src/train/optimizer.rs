//! The optimizer with its states: new weights from the mean gradient, over slices of host memory.

use mdt_plugin_api::{
    Error, Granularity, HostViewMut, Optimizer, ParameterSpec, Result, StateShape, StateSpec, Tensor, Update,
};
use rayon::prelude::*;

use crate::config;
use crate::exit::{Failure, Status};
use crate::model::Parameters;

/// Elements of a slice that one task updates.
const CHUNK: usize = 1 << 16;

/// An optimizer with its state for every parameter.
pub struct Updater {
    optimizer: Box<dyn Optimizer>,
    specs: Vec<StateSpec>,
    granularity: Granularity,
    /// One vector per state: all parameters one after another, or a number for each.
    states: Vec<Vec<f32>>,
    /// The weight decay of each parameter.
    decay: Vec<f64>,
}

impl Updater {
    /// An optimizer at its beginning.
    ///
    /// # Errors
    /// Its states cannot be kept the way it declares them.
    pub fn new(
        optimizer: Box<dyn Optimizer>,
        parameters: &Parameters,
        settings: &config::Optimizer,
    ) -> Result<Self, Failure> {
        let specs = optimizer.states();
        let granularity = optimizer.granularity();
        let scalar = specs.iter().find(|spec| spec.shape == StateShape::Scalar);
        if let (Some(spec), Granularity::Element) = (scalar, granularity) {
            let message =
                format!("the optimizer `{}` declares the scalar state `{}` and slices", settings.id, spec.name);
            return Err(Failure::new(Status::Plugin, message)
                .because("every slice would update the same number")
                .help("its author declares `Granularity::Tensor`"));
        }
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
        Ok(Self { optimizer, specs, granularity, states, decay })
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
        let mut arrays = Vec::new();
        for (spec, state) in self.specs.iter().zip(&self.states) {
            let mut rest = state.as_slice();
            arrays.extend(state_arrays(spec, parameters, |length| rest.split_off(..length)));
        }
        arrays
    }

    /// The same arrays for writing, in the same order.
    pub fn arrays_mut<'a>(&'a mut self, parameters: &Parameters) -> Vec<StateArray<&'a mut [f32]>> {
        let mut arrays = Vec::new();
        for (spec, state) in self.specs.iter().zip(&mut self.states) {
            let mut rest = state.as_mut_slice();
            arrays.extend(state_arrays(spec, parameters, |length| rest.split_off_mut(..length)));
        }
        arrays
    }
}

/// One state of one parameter.
pub struct StateArray<T> {
    /// `<parameter>.<state>`.
    pub name: String,
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: T,
}

/// The arrays of a state: one for each parameter, taken off the front of the state's elements.
fn state_arrays<T>(
    spec: &StateSpec,
    parameters: &Parameters,
    mut take: impl FnMut(usize) -> Option<T>,
) -> Vec<StateArray<T>> {
    let array = |parameter: &ParameterSpec| {
        let shape = match spec.shape {
            StateShape::Parameter => parameter.shape.clone(),
            StateShape::Scalar => vec![1],
        };
        let data = take(shape.iter().product())?;
        Some(StateArray { name: format!("{}.{}", parameter.name, spec.name), shape, data })
    };
    parameters.specs().iter().filter_map(array).collect()
}

fn short() -> Error {
    Error::other("the gradient or a state is shorter than the parameters")
}
