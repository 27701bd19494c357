//! Optimizers across the boundary.

use std::sync::Arc;

use abi_stable::std_types::{RBox, RResult, RSlice, RSliceMut, RStr, RString, RVec};
use abi_stable::{StableAbi, sabi_trait, sabi_trait::TD_Opaque};

use super::guard::{Guarded, Owner};
use super::types::{RawError, plain};
use crate::{Error, Granularity, Optimizer, Result, StateShape, StateSpec, Update};

/// [`StateSpec`].
#[repr(C)]
#[derive(StableAbi)]
pub struct RawStateSpec {
    name: RString,
    scalar: bool,
    initial: f32,
}

/// [`Update`].
#[repr(C)]
#[derive(StableAbi)]
pub struct RawUpdate<'a> {
    name: RStr<'a>,
    shape: RSlice<'a, usize>,
    step: u64,
    learning_rate: f64,
    weight_decay: f64,
}

/// [`Optimizer`] with a stable layout.
#[sabi_trait]
pub trait RawOptimizer: Send + Sync {
    /// [`Optimizer::states`].
    fn states(&self) -> RResult<RVec<RawStateSpec>, RawError>;
    /// [`Optimizer::granularity`], true for whole tensors.
    fn whole_tensors(&self) -> bool;
    /// [`Optimizer::update`].
    #[sabi(last_prefix_field)]
    fn update(
        &self,
        update: RawUpdate<'_>,
        parameter: RSliceMut<'_, f32>,
        gradient: RSlice<'_, f32>,
        states: RSliceMut<'_, RSliceMut<'_, f32>>,
    ) -> RResult<(), RawError>;
}

pub(crate) type OptimizerObject = RawOptimizer_TO<'static, RBox<()>>;

struct Exported(Guarded<Box<dyn Optimizer>>);

/// Makes an object of a plain optimizer.
pub(crate) fn export(optimizer: Box<dyn Optimizer>, owner: Arc<Owner>) -> OptimizerObject {
    RawOptimizer_TO::from_value(Exported(Guarded::new(optimizer, owner)), TD_Opaque)
}

impl RawOptimizer for Exported {
    fn states(&self) -> RResult<RVec<RawStateSpec>, RawError> {
        self.0.call(|optimizer| {
            let raw = |spec: StateSpec| RawStateSpec {
                name: spec.name.into(),
                scalar: spec.shape == StateShape::Scalar,
                initial: spec.initial,
            };
            Ok(optimizer.states().into_iter().map(raw).collect())
        })
    }

    fn whole_tensors(&self) -> bool {
        self.0.call_or(true, |optimizer| optimizer.granularity() == Granularity::Tensor)
    }

    fn update(
        &self,
        update: RawUpdate<'_>,
        mut parameter: RSliceMut<'_, f32>,
        gradient: RSlice<'_, f32>,
        mut states: RSliceMut<'_, RSliceMut<'_, f32>>,
    ) -> RResult<(), RawError> {
        self.0.call(|optimizer| {
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
            optimizer.update(&update, parameter, gradient.as_slice(), &mut states)
        })
    }
}

struct Loaded(OptimizerObject);

/// Makes a plain optimizer of an object.
pub(crate) fn import(object: OptimizerObject) -> Box<dyn Optimizer> {
    Box::new(Loaded(object))
}

impl Optimizer for Loaded {
    fn states(&self) -> Vec<StateSpec> {
        let plain_spec = |raw: RawStateSpec| StateSpec {
            name: raw.name.into(),
            shape: if raw.scalar { StateShape::Scalar } else { StateShape::Parameter },
            initial: raw.initial,
        };
        // An optimizer that panics here is poisoned: the first update reports it.
        plain(self.0.states()).map(|specs| specs.into_iter().map(plain_spec).collect()).unwrap_or_default()
    }

    fn granularity(&self) -> Granularity {
        if self.0.whole_tensors() { Granularity::Tensor } else { Granularity::Element }
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
        plain(self.0.update(raw, parameter.into(), gradient.into(), states.as_mut_slice().into()))
    }
}
