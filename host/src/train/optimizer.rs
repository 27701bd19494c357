//! The optimizer with its states: new weights from the mean gradient, on slices of host memory or on the device.

mod device;
mod plan;
mod state;

use mdt_plugin_api::{Dtype, Error, Granularity, HostArrayRef, Result, StateMut, Tensor, Update};
use rayon::prelude::*;

use self::device::DeviceStates;
pub use self::plan::OptimizerPlan;
use self::plan::{ParameterPlan, Rule};
use self::state::HostState;
pub(super) use self::state::is_finite;
use super::schedule::Schedule;
use crate::checkpoint::Checkpoint;
use crate::config;
use crate::exit::Failure;
use crate::model::Parameters;
use crate::staging;
use crate::storage::TypedArray;

/// Elements of a slice that one task updates.
const CHUNK: usize = 1 << 16;

/// An optimizer with the states of every parameter. Compute thread only.
pub struct StatefulOptimizer {
    plan: OptimizerPlan,
    /// The learning rate of each parameter.
    schedules: Vec<Schedule>,
    states: States,
    planned_steps: u64,
}

/// The states of each parameter.
enum States {
    Host(Vec<Vec<HostState>>),
    Device(DeviceStates),
}

impl States {
    /// The states of every parameter in host memory; `staged` is where those of a device are copied to.
    fn on_host<'a>(&'a self, staged: &'a mut Vec<Vec<HostState>>) -> Result<&'a [Vec<HostState>]> {
        match self {
            Self::Host(states) => Ok(states),
            Self::Device(states) => {
                *staged = states.read()?;
                Ok(staged)
            }
        }
    }
}

impl StatefulOptimizer {
    /// An optimizer whose states have their initial values, for a job with so many updates.
    pub fn new(
        plan: OptimizerPlan,
        parameters: &Parameters,
        scheduler: &config::Scheduler,
        planned_steps: u64,
    ) -> Result<Self> {
        let states = plan.parameters.iter().zip(parameters.tensors()).map(|(parameter, tensor)| {
            let state = |spec| HostState::new(spec, &parameter.shape, || staging::copy(tensor));
            parameter.states.iter().map(state).collect::<Result<Vec<_>>>()
        });
        let states = States::Host(states.collect::<Result<_>>()?);
        let schedule =
            |parameter: &ParameterPlan| Schedule::new(scheduler, parameter.peak_learning_rate, planned_steps);
        let schedules = plan.parameters.iter().map(schedule).collect();
        let states = match (&plan.rule, states, parameters.tensors().first()) {
            (Rule::Device(_), States::Host(states), Some(tensor)) => {
                States::Device(DeviceStates::upload(tensor.compute(), states)?)
            }
            (_, states, _) => states,
        };
        Ok(Self { plan, schedules, states, planned_steps })
    }

    /// Whether the weights for evaluation and export are not those that are trained.
    pub fn has_evaluation_weights(&self) -> bool {
        self.plan.evaluation_weights.is_some()
    }

    /// Whether gradients stay on the device.
    pub fn is_on_device(&self) -> bool {
        matches!(self.states, States::Device(_))
    }

    /// Updates every parameter in place. `gradient` is the clipped mean, all parameters one after another.
    ///
    /// # Errors
    /// The optimizer failed or panicked; the weights are then partly updated and must not be saved.
    pub fn apply(&mut self, parameters: &mut Parameters, gradient: &[f32], step: u64) -> Result<()> {
        let Self { plan, schedules, states: States::Host(states), planned_steps } = self else {
            return Err(Error::other("an optimizer on the device was given a gradient on the host"));
        };
        let planned_steps = Some(*planned_steps);
        staging::with_slices_mut(parameters.tensors_mut(), |slices| {
            let mut tasks = Vec::new();
            let mut rest = gradient;
            let of_parameters = plan.parameters.iter().zip(&*schedules).zip(states.iter_mut()).zip(slices);
            for (((parameter, schedule), states), weights) in of_parameters {
                let update = parameter.update(schedule, step, planned_steps);
                let gradient = rest.split_off(..weights.len()).ok_or_else(short)?;
                split(parameter.granularity, update, weights, gradient, states, &mut tasks)?;
            }
            tasks.into_par_iter().try_for_each(|task| task.run(&plan.rule))
        })
    }

    /// The same on the device, with gradients as tensors.
    pub fn apply_on_device(&mut self, parameters: &mut Parameters, gradients: Vec<Tensor>, step: u64) -> Result<()> {
        let Self { plan, schedules, states: States::Device(states), planned_steps } = self else {
            return Err(Error::other("an optimizer on the host was given a gradient on the device"));
        };
        let update = |place: usize| plan.parameters[place].update(&schedules[place], step, Some(*planned_steps));
        let applied = states.apply(&plan.rule, parameters.tensors_mut(), gradients, update);
        applied.map_err(|error| error.in_component(&*plan.name))
    }

    /// The weights that are evaluated and exported after update `step`, where they are not those that are trained.
    pub fn evaluation_weights(&self, parameters: &Parameters, step: u64) -> Result<Option<Vec<Tensor>>> {
        let Some(rule) = &self.plan.evaluation_weights else { return Ok(None) };
        let mut staged = Vec::new();
        let states = self.states.on_host(&mut staged)?;
        let mut weights = parameters.tensors().iter().map(staging::copy).collect::<Result<Vec<_>>>()?;
        let of_parameters = self.plan.parameters.iter().zip(&self.schedules).zip(states).zip(&mut weights);
        let tasks = of_parameters.map(|(((parameter, schedule), states), weights)| {
            (parameter.update(schedule, step, Some(self.planned_steps)), states, weights)
        });
        tasks.collect::<Vec<_>>().into_par_iter().try_for_each(|(update, states, weights)| {
            let states = states.iter().map(HostState::elements).collect::<Result<Vec<_>>>()?;
            rule.evaluation_weights(&update, weights, &states)
        })?;
        let tensors = parameters.tensors().iter().zip(&self.plan.parameters).zip(&weights);
        let tensors = tensors
            .map(|((tensor, parameter), weights)| staging::upload_f32(tensor.compute(), &parameter.shape, weights));
        tensors.collect::<Result<Vec<_>>>().map(Some)
    }

    /// The states as arrays for a checkpoint, named `<parameter>.<state>`, for as long as `body` runs.
    pub fn with_arrays<T>(&self, body: impl FnOnce(&[TypedArray<'_>]) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut staged = Vec::new();
        let states = self.states.on_host(&mut staged)?;
        let names = self.array_names();
        let arrays = names.iter().zip(states.iter().flatten());
        let arrays = arrays.map(|(name, state)| TypedArray {
            name,
            shape: &state.shape,
            dtype: state.dtype,
            bytes: state.bytes(),
        });
        body(&arrays.collect::<Vec<_>>())
    }

    /// Changes the elements of every state, in the order of the arrays.
    pub fn write_states<E: From<Error>>(
        &mut self,
        mut write: impl FnMut(&str, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let names = self.array_names();
        let mut write_all = |states: &mut Vec<Vec<HostState>>| {
            names.iter().zip(states.iter_mut().flatten()).try_for_each(|(name, state)| write(name, state.bytes_mut()))
        };
        match &mut self.states {
            States::Host(states) => write_all(states),
            States::Device(states) => {
                let mut staged = states.read()?;
                write_all(&mut staged)?;
                *states = states.with(staged)?;
                Ok(())
            }
        }
    }

    /// Copies the states of a checkpoint.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), Failure> {
        let tensors = checkpoint.optimizer()?;
        let expected = self.with_arrays(|arrays| {
            let expected = |array: &TypedArray<'_>| (array.name.to_owned(), array.shape.to_vec(), array.dtype);
            Ok(arrays.iter().map(expected).collect::<Vec<_>>())
        })?;
        let expected: Vec<(&str, &[usize], Dtype)> =
            expected.iter().map(|(name, shape, dtype)| (name.as_str(), shape.as_slice(), *dtype)).collect();
        let mut arrays = tensors.typed_arrays(&expected)?.into_iter();
        self.write_states(|_, bytes| {
            let HostArrayRef { bytes: stored, .. } = arrays.next().ok_or_else(short)?;
            bytes.copy_from_slice(stored);
            Ok(())
        })
    }

    fn array_names(&self) -> Vec<String> {
        self.plan.parameters.iter().flat_map(ParameterPlan::array_names).collect()
    }
}

impl ParameterPlan {
    fn update<'a>(&'a self, schedule: &Schedule, step: u64, planned_steps: Option<u64>) -> Update<'a> {
        Update {
            step,
            planned_steps,
            learning_rate: schedule.learning_rate(step),
            weight_decay: self.weight_decay,
            role: self.role,
            layout: self.layout,
            ..Update::first(&self.name, &self.shape)
        }
    }
}

/// A slice of a parameter with what its update takes.
struct Task<'a> {
    update: Update<'a>,
    parameter: &'a mut [f32],
    gradient: &'a [f32],
    states: Vec<(Dtype, &'a mut [u8])>,
}

impl Task<'_> {
    fn run(self, rule: &Rule) -> Result<()> {
        let Self { update, parameter, gradient, states } = self;
        match rule {
            Rule::Slices(slices) => {
                let states = states.into_iter().map(|(_, bytes)| bytemuck::cast_slice_mut(bytes));
                slices.update(&update, parameter, gradient, &mut states.collect::<Vec<_>>())
            }
            Rule::TypedSlices(slices) => {
                let states = states.into_iter().map(|(dtype, bytes)| StateMut::from_bytes(dtype, bytes));
                slices.update(&update, parameter, gradient, &mut states.collect::<Result<Vec<_>>>()?)
            }
            Rule::Device(_) => Err(Error::other("an optimizer on the device was given slices")),
        }
    }
}

/// Splits the work on a parameter into tasks.
fn split<'a>(
    granularity: Granularity,
    update: Update<'a>,
    mut parameter: &'a mut [f32],
    mut gradient: &'a [f32],
    states: &'a mut [HostState],
    tasks: &mut Vec<Task<'a>>,
) -> Result<()> {
    let chunk = match granularity {
        Granularity::Element => CHUNK,
        Granularity::Block(elements) => (CHUNK / elements).max(1) * elements,
        Granularity::Tensor => usize::MAX,
    };
    let parts: Vec<Vec<usize>> = states
        .iter()
        .map(|state| {
            let slices = (0..parameter.len()).step_by(chunk.min(parameter.len().max(1)));
            slices.map(|start| state.bytes_for(chunk.min(parameter.len() - start))).collect()
        })
        .collect();
    let mut rest: Vec<(Dtype, &'a mut [u8])> =
        states.iter_mut().map(|state| (state.dtype, state.bytes_mut())).collect();
    let mut slice = 0;
    while !parameter.is_empty() {
        let length = parameter.len().min(chunk);
        let take = |((dtype, rest), parts): (&mut (Dtype, &'a mut [u8]), &Vec<usize>)| {
            Ok((*dtype, rest.split_off_mut(..parts[slice]).ok_or_else(short)?))
        };
        tasks.push(Task {
            update: update.clone(),
            parameter: parameter.split_off_mut(..length).ok_or_else(short)?,
            gradient: gradient.split_off(..length).ok_or_else(short)?,
            states: rest.iter_mut().zip(&parts).map(take).collect::<Result<_>>()?,
        });
        slice += 1;
    }
    Ok(())
}

fn short() -> Error {
    Error::other("the gradient or a state is shorter than the parameters")
}
