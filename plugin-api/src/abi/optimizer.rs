//! Optimizers across the boundary.

use std::sync::Arc;

use abi_stable::std_types::{RSlice, RSliceMut, RStr};

use super::guard::{Guarded, Owner};
use super::object::{AnyThread, Imported, RawObject, exports};
use super::record::replies;
use super::table::{c_struct, interfaces};
use crate::{Error, Granularity, Optimizer, Result, StateSpec, Update};

c_struct! {
    /// [`Update`].
    "MdtUpdate" RawUpdate<'a> {
        name: RStr<'a>,
        shape: RSlice<'a, usize>,
        step: u64,
        learning_rate: f64,
        weight_decay: f64,
    }
}

interfaces! {
    /// An optimizer on slices of parameters in host memory. Any thread.
    "optimizer.slices/1" OptimizerSlices SliceFunctions {
        /// [`Optimizer::states`].
        fn states() -> Vec<StateSpec>;
        /// [`Optimizer::granularity`].
        fn granularity() -> Granularity;
        /// [`Optimizer::update`].
        fn update(
            update: &RawUpdate<'_>,
            parameter: RSliceMut<'_, f32>,
            gradient: RSlice<'_, f32>,
            states: RSliceMut<'_, RSliceMut<'_, f32>>
        );
    }
}
replies! { Vec<StateSpec>, Granularity }
exports! { Box<dyn Optimizer>: OptimizerSlices; }
// SAFETY: `Optimizer` is `Send + Sync`.
unsafe impl AnyThread for OptimizerSlices {}

/// Makes an object of a plain optimizer.
pub(super) fn export(optimizer: Box<dyn Optimizer>, owner: Arc<Owner>) -> RawObject {
    RawObject::new(Guarded::new(optimizer, owner))
}

/// Makes a plain optimizer of an object.
pub(super) fn import(object: RawObject, name: &'static str) -> Result<Box<dyn Optimizer>> {
    Ok(Box::new(Imported::<OptimizerSlices>::of(object, name)?))
}

impl SliceFunctions for Box<dyn Optimizer> {
    fn states(&self) -> Result<Vec<StateSpec>> {
        Ok((**self).states())
    }

    fn granularity(&self) -> Result<Granularity> {
        Ok((**self).granularity())
    }

    fn update(
        &self,
        update: &RawUpdate<'_>,
        mut parameter: RSliceMut<'_, f32>,
        gradient: RSlice<'_, f32>,
        mut states: RSliceMut<'_, RSliceMut<'_, f32>>,
    ) -> Result<()> {
        let mut states: Vec<&mut [f32]> = states.iter_mut().map(RSliceMut::as_mut_slice).collect();
        let parameter = parameter.as_mut_slice();
        // Rules zip these: a shorter one would leave elements behind without a word.
        if gradient.len() != parameter.len() {
            return Err(Error::plugin(format!(
                "parameter {} has {} elements here and its gradient {}",
                update.name,
                parameter.len(),
                gradient.len()
            )));
        }
        let update = Update {
            name: update.name.as_str(),
            shape: update.shape.as_slice(),
            step: update.step,
            learning_rate: update.learning_rate,
            weight_decay: update.weight_decay,
        };
        (**self).update(&update, parameter, gradient.as_slice(), &mut states)
    }
}

impl Optimizer for Imported<OptimizerSlices> {
    fn states(&self) -> Vec<StateSpec> {
        // An optimizer that panics here is poisoned: the first update reports it.
        SliceFunctions::states(self).unwrap_or_default()
    }

    fn granularity(&self) -> Granularity {
        SliceFunctions::granularity(self).unwrap_or(Granularity::Tensor)
    }

    fn update(
        &self,
        update: &Update<'_>,
        parameter: &mut [f32],
        gradient: &[f32],
        states: &mut [&mut [f32]],
    ) -> Result<()> {
        let raw = RawUpdate {
            name: update.name.into(),
            shape: update.shape.into(),
            step: update.step,
            learning_rate: update.learning_rate,
            weight_decay: update.weight_decay,
        };
        let mut states: Vec<RSliceMut<'_, f32>> = states.iter_mut().map(|state| (&mut **state).into()).collect();
        SliceFunctions::update(self, &raw, parameter.into(), gradient.into(), states.as_mut_slice().into())
    }
}
