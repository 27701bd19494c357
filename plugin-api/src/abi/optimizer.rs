//! Optimizers across the boundary.

use std::ffi::c_void;
use std::sync::Arc;

use abi_stable::std_types::{RSlice, RSliceMut, RStr};

use super::compute;
use super::few::{by_words, with_few};
use super::guard::{Guarded, Owner};
use super::object::{AnyThread, Imported, RawObject, RawSink, ability, exports};
use super::record::{decode, encode, replies};
use super::table::{c_struct, interfaces};
use super::types::{collected, having, plain_slices, raw_slices};
use crate::register::OptimizerComponent;
use crate::{
    DeviceOptimizer, Dtype, Error, EvaluationWeights, Granularity, Layout, NewValues, Optimizer, ParameterSpec, Result,
    Role, StateMut, StateRef, StateSpec, Tensor, TypedSlices, TypedStates, Update,
};

c_struct! {
    /// [`Update`].
    "MdtUpdate" RawUpdate<'a> {
        name: RStr<'a>,
        shape: RSlice<'a, usize>,
        /// 0 other, 1 linear, 2 embedding, 3 norm, 4 experts; another number is other.
        role: u32,
        /// 0 `[out, in]`, 1 `[in, out]`.
        layout: u32,
        step: u64,
        /// 0 where there is no planned end.
        planned_steps: u64,
        learning_rate: f64,
        weight_decay: f64,
    }

    /// [`StateMut`], or [`StateRef`] where it is only read.
    "MdtState" RawState {
        dtype: u32,
        data: *mut c_void,
        length: usize,
    }
}

interfaces! {
    /// An optimizer on slices of parameters in host memory. Any thread.
    "optimizer.slices/1" OptimizerSlices SliceFunctions {
        /// [`Optimizer::states`].
        fn states() -> Vec<StateSpec>;
        /// [`Optimizer::granularity`] for a [`ParameterSpec`].
        fn granularity(parameter: RSlice<'_, u8>) -> Granularity;
        /// [`Optimizer::update`].
        fn update(
            update: &RawUpdate<'_>,
            parameter: RSliceMut<'_, f32>,
            gradient: RSlice<'_, f32>,
            states: RSliceMut<'_, RSliceMut<'_, f32>>
        );
    }

    /// States of any type. Any thread.
    "optimizer.typed_states/1" OptimizerTypedStates TypedStateFunctions {
        /// [`TypedStates::states`] for a [`ParameterSpec`].
        fn states_of(parameter: RSlice<'_, u8>) -> Vec<StateSpec>;
    }

    /// An optimizer on slices of parameters in host memory, with states of any type. Any thread.
    "optimizer.typed_slices/1" OptimizerTypedSlices TypedSliceFunctions {
        /// [`TypedSlices::granularity`] for a [`ParameterSpec`].
        fn granularity_of(parameter: RSlice<'_, u8>) -> Granularity;
        /// [`TypedSlices::update`].
        fn update_typed(
            update: &RawUpdate<'_>,
            parameter: RSliceMut<'_, f32>,
            gradient: RSlice<'_, f32>,
            states: RSlice<'_, RawState>
        );
    }

    /// An optimizer in tensor operations. The compute thread. The compute that it is given is its own from then on.
    "optimizer.device/1" OptimizerDevice DeviceFunctions {
        /// [`DeviceOptimizer::update`]. Handles go in borrowed; those of the new parameter and of its states, in this order,
        /// come out owned.
        fn update_tensors(
            update: &RawUpdate<'_>, compute: &mut RawObject, parameter: u64, gradient: u64, states: RSlice<'_, u64>,
            new_values: &RawSink<'_, u64>
        );
    }

    /// Weights for evaluation and export. Any thread.
    "optimizer.evaluation_weights/1" OptimizerEvaluationWeights EvaluationFunctions {
        /// [`EvaluationWeights::evaluation_weights`].
        fn write_weights(update: &RawUpdate<'_>, weights: RSliceMut<'_, f32>, states: RSlice<'_, RawState>);
    }
}
replies! { Vec<StateSpec>, Granularity }
exports! {
    OptimizerComponent:
        OptimizerSlices if slices,
        OptimizerTypedStates if typed_states,
        OptimizerTypedSlices if typed_slices,
        OptimizerDevice if device,
        OptimizerEvaluationWeights if evaluation_weights;
}

macro_rules! any_thread {
    ($($table:ident),*) => { $(
        // SAFETY: all traits of optimizers are `Send + Sync`.
        unsafe impl AnyThread for $table {}
    )* };
}
any_thread! { OptimizerSlices, OptimizerTypedStates, OptimizerTypedSlices, OptimizerDevice, OptimizerEvaluationWeights }

/// Makes an object of a plain optimizer.
pub(super) fn export(optimizer: OptimizerComponent, owner: Arc<Owner>) -> RawObject {
    RawObject::new(Guarded::new(optimizer, owner))
}

/// Makes a plain optimizer of an object.
pub(super) fn import(object: RawObject, name: &'static str) -> Result<OptimizerComponent> {
    let object = object.into_shared();
    Ok(OptimizerComponent {
        slices: ability!(OptimizerSlices of object, name),
        typed_states: ability!(OptimizerTypedStates of object, name),
        typed_slices: ability!(OptimizerTypedSlices of object, name),
        device: ability!(OptimizerDevice of object, name),
        evaluation_weights: ability!(OptimizerEvaluationWeights of object, name),
    })
}

/// What an optimizer says of a parameter; the whole, where it fails: the first update reports that.
fn granularity_for(parameter: &ParameterSpec, ask: impl FnOnce(RSlice<'_, u8>) -> Result<Granularity>) -> Granularity {
    encode(parameter).and_then(|spec| ask(spec.as_slice().into())).unwrap_or(Granularity::Tensor)
}

impl<'a> From<&RawUpdate<'a>> for Update<'a> {
    #[inline(always)]
    fn from(raw: &RawUpdate<'a>) -> Self {
        Self {
            name: by_words(&raw.name).into(),
            shape: by_words(&raw.shape).as_slice(),
            role: match raw.role {
                1 => Role::Linear,
                2 => Role::Embedding,
                3 => Role::Norm,
                4 => Role::Experts,
                _ => Role::Other,
            },
            layout: if raw.layout == 1 { Layout::InOut } else { Layout::OutIn },
            step: raw.step,
            planned_steps: (raw.planned_steps != 0).then_some(raw.planned_steps),
            learning_rate: raw.learning_rate,
            weight_decay: by_words(&raw.weight_decay),
        }
    }
}

impl<'a> From<&Update<'a>> for RawUpdate<'a> {
    #[inline(always)]
    fn from(update: &Update<'a>) -> Self {
        Self {
            name: by_words(&update.name).into(),
            shape: by_words(&update.shape).into(),
            role: match update.role {
                Role::Other => 0,
                Role::Linear => 1,
                Role::Embedding => 2,
                Role::Norm => 3,
                Role::Experts => 4,
            },
            layout: match update.layout {
                Layout::OutIn => 0,
                Layout::InOut => 1,
            },
            step: update.step,
            planned_steps: update.planned_steps.unwrap_or(0),
            learning_rate: update.learning_rate,
            weight_decay: by_words(&update.weight_decay),
        }
    }
}

impl RawState {
    fn written(state: &mut StateMut<'_>) -> Self {
        Self { dtype: state.dtype().0, data: state.as_raw().cast(), length: state.len() }
    }

    fn read(state: &StateRef<'_>) -> Self {
        Self { dtype: state.dtype().0, data: state.as_raw().cast_mut().cast(), length: state.len() }
    }
}

/// Rules zip these: a shorter one would leave elements behind without a word.
#[inline(always)]
fn check_lengths(update: &RawUpdate<'_>, parameter: usize, gradient: usize) -> Result<()> {
    if gradient == parameter { Ok(()) } else { Err(lengths_differ(update.name, parameter, gradient)) }
}

#[cold]
fn lengths_differ(name: RStr<'_>, parameter: usize, gradient: usize) -> Error {
    Error::plugin(format!("parameter {name} has {parameter} elements here and its gradient {gradient}"))
}

impl SliceFunctions for OptimizerComponent {
    fn states(&self) -> Result<Vec<StateSpec>> {
        Ok(having(&self.slices)?.states())
    }

    fn granularity(&self, parameter: RSlice<'_, u8>) -> Result<Granularity> {
        Ok(having(&self.slices)?.granularity(&decode(parameter.as_slice())?))
    }

    #[inline(always)]
    fn update(
        &self,
        update: &RawUpdate<'_>,
        mut parameter: RSliceMut<'_, f32>,
        gradient: RSlice<'_, f32>,
        states: RSliceMut<'_, RSliceMut<'_, f32>>,
    ) -> Result<()> {
        check_lengths(update, parameter.len(), gradient.len())?;
        let slices = having(&self.slices)?;
        let states = plain_slices(states);
        slices.update(&update.into(), parameter.as_mut_slice(), gradient.as_slice(), states)
    }
}

impl Optimizer for Imported<OptimizerSlices> {
    fn states(&self) -> Vec<StateSpec> {
        // An optimizer that panics here is poisoned: the first update reports it.
        SliceFunctions::states(self).unwrap_or_default()
    }

    fn granularity(&self, parameter: &ParameterSpec) -> Granularity {
        granularity_for(parameter, |spec| SliceFunctions::granularity(self, spec))
    }

    fn update(
        &self,
        update: &Update<'_>,
        parameter: &mut [f32],
        gradient: &[f32],
        states: &mut [&mut [f32]],
    ) -> Result<()> {
        let states = raw_slices(states);
        SliceFunctions::update(self, &update.into(), parameter.into(), gradient.into(), states)
    }
}

impl TypedStateFunctions for OptimizerComponent {
    fn states_of(&self, parameter: RSlice<'_, u8>) -> Result<Vec<StateSpec>> {
        having(&self.typed_states)?.states(&decode(parameter.as_slice())?)
    }
}

impl TypedStates for Imported<OptimizerTypedStates> {
    fn states(&self, parameter: &ParameterSpec) -> Result<Vec<StateSpec>> {
        self.states_of(encode(parameter)?.as_slice().into())
    }
}

impl TypedSliceFunctions for OptimizerComponent {
    fn granularity_of(&self, parameter: RSlice<'_, u8>) -> Result<Granularity> {
        Ok(having(&self.typed_slices)?.granularity(&decode(parameter.as_slice())?))
    }

    #[inline(always)]
    fn update_typed(
        &self,
        update: &RawUpdate<'_>,
        mut parameter: RSliceMut<'_, f32>,
        gradient: RSlice<'_, f32>,
        states: RSlice<'_, RawState>,
    ) -> Result<()> {
        check_lengths(update, parameter.len(), gradient.len())?;
        // SAFETY: the caller has so many elements of this type there, and lends them to this call alone.
        let state =
            |state: &RawState| unsafe { StateMut::from_raw(Dtype(state.dtype), state.data.cast(), state.length) };
        let slices = having(&self.typed_slices)?;
        with_few(states.as_slice(), state, |states| {
            slices.update(&update.into(), parameter.as_mut_slice(), gradient.as_slice(), states)
        })
    }
}

impl TypedSlices for Imported<OptimizerTypedSlices> {
    fn granularity(&self, parameter: &ParameterSpec) -> Granularity {
        granularity_for(parameter, |spec| self.granularity_of(spec))
    }

    fn update(
        &self,
        update: &Update<'_>,
        parameter: &mut [f32],
        gradient: &[f32],
        states: &mut [StateMut<'_>],
    ) -> Result<()> {
        with_few(states, RawState::written, |states| {
            self.update_typed(&update.into(), parameter.into(), gradient.into(), (&*states).into())
        })
    }
}

impl DeviceFunctions for OptimizerComponent {
    fn update_tensors(
        &self,
        update: &RawUpdate<'_>,
        compute: &mut RawObject,
        parameter: u64,
        gradient: u64,
        states: RSlice<'_, u64>,
        new_values: &RawSink<'_, u64>,
    ) -> Result<()> {
        let compute = compute::import(std::mem::take(compute), "compute")?;
        let borrowed = |handle| Tensor::borrowed(&compute, handle);
        let states: Vec<Tensor> = states.iter().copied().map(borrowed).collect();
        let device = having(&self.device)?;
        let new = device.update(&update.into(), &borrowed(parameter), &borrowed(gradient), &states)?;
        for tensor in std::iter::once(new.parameter).chain(new.states) {
            new_values.write(&[tensor.into_handle()?]);
        }
        Ok(())
    }
}

impl DeviceOptimizer for Imported<OptimizerDevice> {
    fn update(
        &self,
        update: &Update<'_>,
        parameter: &Tensor,
        gradient: &Tensor,
        states: &[Tensor],
    ) -> Result<NewValues> {
        let on = parameter.compute();
        let mut compute = compute::export(on, || Owner::named("host compute"));
        let handles: Vec<u64> = states.iter().map(Tensor::handle).collect();
        let new = collected(|new_values| {
            let (parameter, gradient) = (parameter.handle(), gradient.handle());
            self.update_tensors(
                &update.into(),
                &mut compute,
                parameter,
                gradient,
                handles.as_slice().into(),
                &new_values,
            )
        })?;
        let mut new = new.into_iter().map(|handle| Tensor::from_handle(on, handle));
        let parameter = new.next().ok_or_else(|| Error::plugin("an update on the device gave no new parameter"))?;
        Ok(NewValues { parameter, states: new.collect() })
    }
}

impl EvaluationFunctions for OptimizerComponent {
    fn write_weights(
        &self,
        update: &RawUpdate<'_>,
        mut weights: RSliceMut<'_, f32>,
        states: RSlice<'_, RawState>,
    ) -> Result<()> {
        // SAFETY: the caller has so many elements of this type there, and writes to none of them during this call.
        let state =
            |state: &RawState| unsafe { StateRef::from_raw(Dtype(state.dtype), state.data.cast(), state.length) };
        let able = having(&self.evaluation_weights)?;
        with_few(states.as_slice(), state, |states| {
            able.evaluation_weights(&update.into(), weights.as_mut_slice(), states)
        })
    }
}

impl EvaluationWeights for Imported<OptimizerEvaluationWeights> {
    fn evaluation_weights(&self, update: &Update<'_>, weights: &mut [f32], states: &[StateRef<'_>]) -> Result<()> {
        with_few(states, RawState::read, |states| self.write_weights(&update.into(), weights.into(), (&*states).into()))
    }
}
