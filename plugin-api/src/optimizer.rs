//! What an optimizer plugin provides: a rule that turns gradients into updates.
//!
//! Most implement [`Optimizer`] and nothing else: slices of f32, with states of the same shape. What some need beyond that
//! are abilities, each a trait that is named in [`plugin!`](crate::plugin):
//!
//! - states per parameter, of any shape and element type ([`TypedStates`]), for updates on slices ([`TypedSlices`]) or on
//!   the device: factored moments, bf16, 8 bits with scales of blocks;
//! - updates in tensor operations on the device ([`DeviceOptimizer`]);
//! - other weights for evaluation and export than those that are trained ([`EvaluationWeights`]).

mod state;

use serde::{Deserialize, Serialize};

use crate::{Error, Layout, ParameterSpec, Result, Role, Tensor};

pub use state::{Initial, StateMut, StateRef, StateShape, StateSpec};

/// The parts into which the host may split the work on a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Granularity {
    /// Any slice of a parameter can be updated alone (AdamW, SGD, Lion); the host splits slices over threads and ranks.
    Element,
    /// Slices begin at a multiple of so many elements, in row-major order, and end at one or at the parameter's end
    /// (states in 8 bits with a scale for each block).
    Block(usize),
    /// The rule needs a whole parameter (Muon, Adafactor).
    Tensor,
}

/// What an update needs to know beside parameter, gradient and states.
#[derive(Clone, Debug)]
pub struct Update<'a> {
    /// The parameter's name.
    pub name: &'a str,
    /// The whole parameter's shape, also where a slice is updated.
    pub shape: &'a [usize],
    /// What the parameter does.
    pub role: Role,
    /// The order of its axes where it is a linear layer's weight.
    pub layout: Layout,
    /// The number of this update, from 1.
    pub step: u64,
    /// The number of updates that the job plans; none where it has no planned end. Early stopping may end it before.
    pub planned_steps: Option<u64>,
    /// The learning rate of this update for this parameter, from the schedule.
    pub learning_rate: f64,
    /// The weight decay for this parameter: 0 where `no_decay` names it.
    pub weight_decay: f64,
}

impl<'a> Update<'a> {
    /// The first update of a parameter, with a learning rate and a weight decay of 0, no planned end and no role: for
    /// tests, which set what they need.
    pub fn first(name: &'a str, shape: &'a [usize]) -> Self {
        Self {
            name,
            shape,
            role: Role::Other,
            layout: Layout::OutIn,
            step: 1,
            planned_steps: None,
            learning_rate: 0.0,
            weight_decay: 0.0,
        }
    }
}

/// An optimizer on slices of f32 in host memory. It keeps nothing between calls: the host owns all state.
///
/// `update` is called on several threads at once, for different parameters or slices. Rules that couple parameters
/// (SAM, Prodigy) do not fit this trait.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is registered as an optimizer with the ability `slices`, which is the trait `Optimizer`",
    label = "`{Self}` does not implement `Optimizer`",
    note = "an optimizer that names no ability in `plugin!` has `slices`"
)]
pub trait Optimizer: Send + Sync {
    /// The states that it needs for every parameter, of f32, in the order in which `update` gets them.
    fn states(&self) -> Vec<StateSpec>;

    /// The parts into which the host may split the work on a parameter.
    fn granularity(&self, _parameter: &ParameterSpec) -> Granularity {
        Granularity::Element
    }

    /// Updates `parameter` in place. `parameter`, `gradient` (the clipped mean) and every state of shape
    /// [`StateShape::Parameter`] have the same length.
    fn update(
        &self,
        update: &Update<'_>,
        parameter: &mut [f32],
        gradient: &[f32],
        states: &mut [&mut [f32]],
    ) -> Result<()>;
}

/// The ability `typed_states`: states that differ between parameters, in shape or in element type.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is registered with the ability `typed_states`, which is the trait `TypedStates`",
    label = "`{Self}` does not implement `TypedStates`"
)]
pub trait TypedStates: Send + Sync {
    /// The states of a parameter, in the order in which updates get them. Parameters may have different ones, or none.
    ///
    /// The host calls it once for each parameter, at the start of a job and again where it resumes: the same parameter has
    /// the same states every time.
    fn states(&self, parameter: &ParameterSpec) -> Result<Vec<StateSpec>>;
}

/// The ability `typed_slices`: updates on slices in host memory, with the states that [`TypedStates`] declares.
///
/// `update` is called on several threads at once, for different parameters or slices.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is registered with the ability `typed_slices`, which is the trait `TypedSlices`",
    label = "`{Self}` does not implement `TypedSlices`"
)]
pub trait TypedSlices: Send + Sync {
    /// The parts into which the host may split the work on a parameter. States of a shape of their own
    /// ([`StateShape::Of`]) need [`Granularity::Tensor`]: slices would each update them.
    fn granularity(&self, parameter: &ParameterSpec) -> Granularity;

    /// Updates `parameter` in place, and its states. `parameter` and `gradient` (the clipped mean) have the same length;
    /// of states that have an element for each element or block of the parameter, the slice's part is given.
    fn update(
        &self,
        update: &Update<'_>,
        parameter: &mut [f32],
        gradient: &[f32],
        states: &mut [StateMut<'_>],
    ) -> Result<()>;
}

/// The ability `device`: updates in tensor operations, so that parameters, gradients and states stay on the device.
///
/// The states are those that [`TypedStates`] declares or, without that ability, those of [`Optimizer`]. Called on the
/// compute thread, for one parameter after another.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is registered with the ability `device`, which is the trait `DeviceOptimizer`",
    label = "`{Self}` does not implement `DeviceOptimizer`"
)]
pub trait DeviceOptimizer: Send + Sync {
    /// The new values of a whole parameter and of its states, from the old ones and the gradient (the clipped mean). They
    /// have the old ones' shapes and types; the host checks that. It computes them: an update returns lazy tensors and
    /// reads none, since every value that is read waits for the device.
    ///
    /// Operations without inputs take `parameter.compute()` for the device.
    fn update(
        &self,
        update: &Update<'_>,
        parameter: &Tensor,
        gradient: &Tensor,
        states: &[Tensor],
    ) -> Result<NewValues>;
}

/// The result of [`DeviceOptimizer::update`].
#[derive(Debug)]
pub struct NewValues {
    /// The parameter.
    pub parameter: Tensor,
    /// Its states, in their order.
    pub states: Vec<Tensor>,
}

/// The ability `evaluation_weights`: the weights that are evaluated and exported are not those that are trained
/// (Schedule-Free, averages of weights).
///
/// They are used for held-out losses, and so for the best checkpoint and early stopping, and for `final/`. Checkpoints have
/// the trained weights, from which these follow.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is registered with the ability `evaluation_weights`, which is the trait `EvaluationWeights`",
    label = "`{Self}` does not implement `EvaluationWeights`"
)]
pub trait EvaluationWeights: Send + Sync {
    /// Writes the weights for evaluation after update `update` to `weights`, which has the trained ones at first.
    /// `weights` and `states` are slices as updates get them, or whole parameters. `update.learning_rate` is that of the
    /// last update.
    fn evaluation_weights(&self, update: &Update<'_>, weights: &mut [f32], states: &[StateRef<'_>]) -> Result<()>;
}

/// The states, by position: `let [momentum] = expect_states(states)?`.
///
/// # Errors
/// The host gave another number of them than the optimizer declared.
pub fn expect_states<T, const N: usize>(states: &mut [T]) -> Result<&mut [T; N]> {
    let given = states.len();
    states.try_into().map_err(|_| Error::plugin(format!("expected {N} optimizer states, got {given}")))
}
