//! The optimizer with its states: new weights from the mean gradient, on slices of host memory or on the device. Where the
//! states are divided among ranks, each has those of the elements that it updates.

mod device;
mod plan;
mod state;

use std::ops::Range;

use mdt_plugin_api::{Dtype, Error, Granularity, HostArrayRef, Result, StateMut, Tensor, Update};
use rayon::prelude::*;

use self::device::DeviceStates;
pub use self::plan::OptimizerPlan;
use self::plan::{ParameterPlan, Rule};
use self::state::HostState;
pub(super) use self::state::is_finite;
use super::clip;
use super::layout::{CHUNK, GradientLayout, Piece};
use super::schedule::Schedule;
use crate::checkpoint::{Checkpoint, Tensors};
use crate::config;
use crate::exit::Failure;
use crate::model::Parameters;
use crate::staging;
use crate::storage::TypedArray;

/// An optimizer with the states of every parameter. Compute thread only.
pub struct StatefulOptimizer {
    plan: OptimizerPlan,
    /// The learning rate of each parameter.
    schedules: Vec<Schedule>,
    states: States,
    /// Which elements of each parameter have their states here.
    own: Vec<Option<Range<usize>>>,
    planned_steps: u64,
}

/// An array of states, as checkpoints have it, and the part of it that is here.
pub(super) struct OwnState<'a> {
    /// `<parameter>.<state>`.
    pub(super) name: String,
    /// The shape of the whole array.
    pub(super) shape: &'a [usize],
    pub(super) dtype: Dtype,
    /// The bytes of it that are here.
    pub(super) bytes: &'a [u8],
}

impl<'a> OwnState<'a> {
    /// The whole array, with these bytes.
    pub(super) fn array(&'a self, bytes: &'a [u8]) -> TypedArray<'a> {
        TypedArray { name: &self.name, shape: self.shape, dtype: self.dtype, bytes }
    }
}

/// The place of a state in an array that checkpoints have.
pub(super) struct StatePlace {
    /// The array's name.
    pub(super) name: String,
    /// The bytes of the whole array.
    pub(super) whole: usize,
    /// Which of them are here.
    pub(super) range: Range<usize>,
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
        layout: &GradientLayout,
    ) -> Result<Self> {
        let own = layout.own();
        let states = plan.parameters.iter().zip(parameters.tensors()).zip(&own).map(|((parameter, tensor), own)| {
            let state = |spec| HostState::new(spec, &parameter.shape, own.as_ref(), || staging::copy(tensor));
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
        Ok(Self { plan, schedules, states, own, planned_steps })
    }

    /// Whether the weights for evaluation and export are not those that are trained.
    pub fn has_evaluation_weights(&self) -> bool {
        self.plan.evaluation_weights.is_some()
    }

    /// Whether gradients stay on the device.
    pub fn is_on_device(&self) -> bool {
        matches!(self.states, States::Device(_))
    }

    /// Updates parameters in place: those of which this rank has the gradient, in the order of the parameters. The gradient times
    /// `factor` is the clipped mean.
    ///
    /// # Errors
    /// The optimizer failed or panicked; the weights are then partly updated and must not be saved.
    pub fn apply(
        &mut self,
        parameters: &mut Parameters,
        gradient: Vec<(&Piece, &mut [f32])>,
        factor: f32,
        step: u64,
    ) -> Result<()> {
        let Self { plan, schedules, states: States::Host(states), planned_steps, .. } = self else {
            return Err(Error::other("an optimizer on the device was given a gradient on the host"));
        };
        let planned_steps = Some(*planned_steps);
        staging::with_slices_mut(parameters.tensors_mut(), |slices| {
            let (mut tasks, mut gradient) = (Vec::new(), gradient.into_iter().peekable());
            let of_parameters = plan.parameters.iter().zip(&*schedules).zip(states.iter_mut()).zip(slices);
            for (number, (((parameter, schedule), states), weights)) in of_parameters.enumerate() {
                let Some((piece, gradient)) = gradient.next_if(|(piece, _)| piece.parameter == number) else {
                    continue;
                };
                let update = parameter.update(schedule, step, planned_steps);
                let weights = weights.get_mut(piece.elements.clone()).ok_or_else(short)?;
                split(parameter.granularity, update, weights, gradient, states, &mut tasks)?;
            }
            tasks.into_par_iter().try_for_each(|task| task.run(&plan.rule, factor))
        })
    }

    /// The same on the device, with gradients as tensors.
    pub fn apply_on_device(&mut self, parameters: &mut Parameters, gradients: Vec<Tensor>, step: u64) -> Result<()> {
        let Self { plan, schedules, states: States::Device(states), planned_steps, .. } = self else {
            return Err(Error::other("an optimizer on the host was given a gradient on the device"));
        };
        let update = |place: usize| plan.parameters[place].update(&schedules[place], step, Some(*planned_steps));
        let applied = states.apply(&plan.rule, parameters.tensors_mut(), gradients, update);
        applied.map_err(|error| error.in_component(&*plan.name))
    }

    /// The weights that are evaluated and exported after update `step`, where they are not those that are trained. `share`
    /// gives every rank those that others have the states of.
    pub fn evaluation_weights(
        &self,
        parameters: &Parameters,
        step: u64,
        share: impl FnOnce(&mut [&mut [f32]]) -> Result<(), Failure>,
    ) -> Result<Option<Vec<Tensor>>, Failure> {
        let Some(rule) = &self.plan.evaluation_weights else { return Ok(None) };
        let mut staged = Vec::new();
        let states = self.states.on_host(&mut staged)?;
        let mut weights = parameters.tensors().iter().map(staging::copy).collect::<Result<Vec<_>>>()?;
        let of_parameters = self.plan.parameters.iter().zip(&self.schedules).zip(states).zip(&self.own);
        let tasks = of_parameters.zip(&mut weights).filter_map(|((((parameter, schedule), states), own), weights)| {
            let own = weights.get_mut(own.clone()?)?;
            Some((parameter.update(schedule, step, Some(self.planned_steps)), states, own))
        });
        tasks.collect::<Vec<_>>().into_par_iter().try_for_each(|(update, states, weights)| {
            let states = states.iter().map(HostState::elements).collect::<Result<Vec<_>>>()?;
            rule.evaluation_weights(&update, weights, &states)
        })?;
        share(&mut weights.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>())?;
        let tensors = parameters.tensors().iter().zip(&self.plan.parameters).zip(&weights);
        let tensors = tensors
            .map(|((tensor, parameter), weights)| staging::upload_f32(tensor.compute(), &parameter.shape, weights));
        Ok(Some(tensors.collect::<Result<Vec<_>>>()?))
    }

    /// The states of this rank, by the arrays that checkpoints have of all ranks, for as long as `body` runs.
    pub(super) fn with_own_states<T>(
        &self,
        body: impl FnOnce(&[OwnState<'_>]) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut staged = Vec::new();
        let states = self.states.on_host(&mut staged)?;
        let states = self.array_names().into_iter().zip(states.iter().flatten());
        let states = states.map(|(name, state)| OwnState {
            name,
            shape: &state.shape,
            dtype: state.dtype,
            bytes: state.bytes(),
        });
        body(&states.collect::<Vec<_>>())
    }

    /// The bytes of each array of states that a rank has which updates these elements of the parameters.
    pub(super) fn state_ranges(&self, own: &[Option<Range<usize>>]) -> Vec<Range<usize>> {
        let of = |(plan, own): (&ParameterPlan, &Option<Range<usize>>)| plan.state_ranges(own.as_ref());
        self.plan.parameters.iter().zip(own).flat_map(of).collect()
    }

    /// Changes the elements of every state that are here, in the order of the arrays.
    pub(super) fn write_states<E: From<Error>>(
        &mut self,
        mut write: impl FnMut(&StatePlace, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let names = self.array_names();
        let mut write_all = |states: &mut Vec<Vec<HostState>>| {
            names.iter().zip(states.iter_mut().flatten()).try_for_each(|(name, state)| {
                let place = StatePlace { name: name.clone(), whole: state.whole_bytes(), range: state.range() };
                write(&place, state.bytes_mut())
            })
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

    /// Copies the states of a checkpoint, those that are here.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), Failure> {
        let tensors = checkpoint.optimizer()?;
        let mut arrays = self.arrays_of(&tensors)?.into_iter();
        self.write_states(|place, bytes| {
            let HostArrayRef { bytes: stored, .. } = arrays.next().ok_or_else(short)?;
            bytes.copy_from_slice(stored.get(place.range.clone()).ok_or_else(short)?);
            Ok(())
        })
    }

    /// The whole arrays of states of a checkpoint, in their order.
    pub(super) fn arrays_of<'a>(&self, tensors: &'a Tensors) -> Result<Vec<HostArrayRef<'a>>, Failure> {
        self.with_own_states(|states| {
            let expected: Vec<_> = states.iter().map(|state| (state.name.as_str(), state.shape, state.dtype)).collect();
            tensors.typed_arrays(&expected)
        })
    }

    /// Takes room for the states of all elements, so that a checkpoint can be restored whole.
    pub(super) fn hold_all(&mut self) {
        let States::Host(states) = &mut self.states else { return };
        for ((parameter, states), own) in self.plan.parameters.iter().zip(states).zip(&mut self.own) {
            *own = Some(0..parameter.shape.iter().product());
            states.iter_mut().for_each(|state| *state = state.whole());
        }
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
    gradient: &'a mut [f32],
    states: Vec<(Dtype, &'a mut [u8])>,
}

impl Task<'_> {
    /// Updates the slice with its gradient times `factor`, which is multiplied here because the slice is in the cache then.
    fn run(self, rule: &Rule, factor: f32) -> Result<()> {
        let Self { update, parameter, gradient, states } = self;
        clip::scale(gradient, factor);
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
    mut gradient: &'a mut [f32],
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
            gradient: gradient.split_off_mut(..length).ok_or_else(short)?,
            states: rest.iter_mut().zip(&parts).map(take).collect::<Result<_>>()?,
        });
        slice += 1;
    }
    Ok(())
}

fn short() -> Error {
    Error::other("the gradient or a state is shorter than the parameters")
}
