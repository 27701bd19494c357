//! What a model plugin provides: its parameters and its forward pass.

mod context;
mod spec;

pub use context::{Attention, BlockFunction, BlockResults, ModelContext, ModelHost, Pass};
pub use spec::{HalfOf, Head, Init, Layout, ModelSpec, ParameterSpec, Role};

use crate::{Result, Tensor};

/// A model architecture, made from a `config.json` ([`crate::Setup::model_config`]).
///
/// The component's id is the `model_type` of the `config.json` files that it reads. Called on the compute thread.
pub trait Model {
    /// Its parameters, vocabulary and head.
    fn spec(&self) -> ModelSpec;

    /// Hidden states `[B, T, D]` before the head, of token ids `[B, T]`, int32, padded at the right.
    ///
    /// Pure: the host may call it more than once. Positions, masks and what is kept of earlier tokens are the context's.
    fn hidden(&self, ctx: &ModelContext, tokens: &Tensor) -> Result<Tensor>;
}
