//! What an optimizer plugin provides: a rule that turns gradients into updates.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The parts into which the host may split the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Granularity {
    /// Any slice of a parameter can be updated alone (AdamW, SGD, Lion); the host splits slices over threads and ranks.
    Element,
    /// The rule needs a whole parameter (Muon, Adafactor).
    Tensor,
}

/// A state that the host keeps for every parameter, saves in checkpoints and shards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StateSpec {
    /// Its name in checkpoints: `momentum`. No two states of an optimizer have the same.
    pub name: String,
    /// Its size.
    pub shape: StateShape,
    /// The initial value of every element: a finite number. A state that is not finite is never saved; the job ends.
    pub initial: f32,
}

impl StateSpec {
    /// A state of the parameter's shape that starts at zero.
    pub fn zeros(name: &str) -> Self {
        Self { name: name.to_owned(), shape: StateShape::Parameter, initial: 0.0 }
    }
}

/// The size of a state, for each parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StateShape {
    /// The parameter's shape.
    Parameter,
    /// One number. Only with [`Granularity::Tensor`]: slices would each update it.
    Scalar,
}

/// What an update needs to know beside parameter, gradient and states.
#[derive(Clone, Debug)]
pub struct Update<'a> {
    /// The parameter's name.
    pub name: &'a str,
    /// The whole parameter's shape, also where a slice is updated.
    pub shape: &'a [usize],
    /// The number of this update, from 1.
    pub step: u64,
    /// The learning rate of this update, from the schedule.
    pub learning_rate: f64,
    /// The weight decay for this parameter: 0 where `no_decay` names it.
    pub weight_decay: f64,
}

/// An optimizer. It keeps nothing between calls: the host owns all state.
///
/// `update` is called on several threads at once, for different parameters or slices. Rules that couple parameters
/// (SAM, Prodigy) do not fit this trait.
pub trait Optimizer: Send + Sync {
    /// The states that it needs, in the order in which `update` gets them.
    fn states(&self) -> Vec<StateSpec>;

    /// The parts into which the host may split the work.
    fn granularity(&self) -> Granularity {
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

/// The states, by position: `let [momentum] = expect_states(states)?`.
///
/// # Errors
/// The host gave another number of them than the optimizer declared.
pub fn expect_states<'a, 'b, const N: usize>(states: &'a mut [&'b mut [f32]]) -> Result<&'a mut [&'b mut [f32]; N]> {
    let given = states.len();
    states.try_into().map_err(|_| Error::plugin(format!("expected {N} optimizer states, got {given}")))
}
