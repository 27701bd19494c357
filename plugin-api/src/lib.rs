//! Everything that a plugin for `mdt-host` needs: traits, types and the registration macro.
//!
//! A plugin is one dynamic library with one or more components of eight kinds: [`Compute`], [`Model`], [`Tokenizer`],
//! [`Trainer`], [`Optimizer`], [`DataSource`], [`CommBackend`] and [`Observer`]. Here is a complete one, the optimizer Lion
//! (Chen et al. 2023, <https://arxiv.org/abs/2302.06675>):
//!
//! ```
//! use mdt_plugin_api::prelude::*;
//!
//! mdt_plugin_api::config! {
//!     /// Keys of the optimizer `lion`.
//!     pub struct Config {
//!         /// Weight of the momentum in the direction of an update.
//!         beta1: f64 [0.0..1.0] = 0.9,
//!         /// Decay of the momentum.
//!         beta2: f64 [0.0..1.0] = 0.99,
//!     }
//! }
//!
//! struct Lion(Config);
//!
//! impl Component for Lion {
//!     type Config = Config;
//!     fn create(config: Config, _setup: &Setup) -> Result<Self> {
//!         Ok(Self(config))
//!     }
//! }
//!
//! impl Optimizer for Lion {
//!     fn states(&self) -> Vec<StateSpec> {
//!         vec![StateSpec::zeros("momentum")]
//!     }
//!
//!     fn update(&self, ctx: &Update, param: &mut [f32], grad: &[f32], states: &mut [&mut [f32]]) -> Result<()> {
//!         let [momentum] = expect_states(states)?;
//!         let (rate, decay) = (ctx.learning_rate as f32, ctx.weight_decay as f32);
//!         let (beta1, beta2) = (self.0.beta1 as f32, self.0.beta2 as f32);
//!         for ((p, &g), m) in param.iter_mut().zip(grad).zip(momentum.iter_mut()) {
//!             let direction = beta1 * *m + (1.0 - beta1) * g;
//!             let sign = if direction == 0.0 { 0.0 } else { direction.signum() };
//!             *p -= rate * (sign + decay * *p);
//!             *m = beta2 * *m + (1.0 - beta2) * g;
//!         }
//!         Ok(())
//!     }
//! }
//!
//! mdt_plugin_api::plugin! { optimizer "lion" => Lion; }
//! # fn main() {}
//! ```
//!
//! Built with `crate-type = ["cdylib"]` and copied into a plugin directory, it is used by name:
//! `mdt-host --config job.toml --set optimizer=lion`.
//!
//! What only some components of a kind can do is a trait of its own, an ability, which [`plugin!`] names after the type:
//! `optimizer "muon" => Muon: device, typed_states;`. For optimizers these are [`TypedStates`], [`TypedSlices`],
//! [`DeviceOptimizer`] and [`EvaluationWeights`]. A component has the abilities that are named there and no other.
//!
//! The host calls a component through the traits. A panic in a component becomes an error that names it. The traits are
//! plain Rust; how they cross between libraries is the subject of [`abi`] alone.

pub mod abi;
mod batch;
mod comm;
mod component;
mod compute;
pub mod config;
mod content;
mod data;
mod datum;
mod dtype;
pub mod engine;
mod error;
mod example;
mod host_array;
mod item;
mod model;
mod observer;
pub mod op;
mod optimizer;
mod prepare;
mod raw_host_view;
mod region;
pub mod register;
mod services;
mod tensor;
mod tokenizer;
mod trainer;
mod unique_keys;

#[cfg(test)]
extern crate self as mdt_plugin_api;

pub use batch::{Batch, BatchRows, HostBatch};
pub use comm::{
    Bootstrap, Capabilities, CommBackend, CommRegions, Communicator, Finished, Outcome, PointToPoint, ReduceOp,
    ReduceScatter, Work,
};
pub use component::{Component, Kind};
pub use compute::{
    Compute, DeviceInfo, Handle, MemoryInfo, PlannedMemory, RecomputedFunction, TensorFunction, TensorType,
    ValueAndGrad,
};
pub use content::Content;
pub use data::{DataSource, Length, Row, RowBatch};
pub use datum::Datum;
pub use dtype::Dtype;
pub use error::{Error, ErrorCode, Result};
pub use example::{Example, Message};
pub use half::{bf16, f16};
pub use host_array::{Element, HostArray, HostArrayRef};
pub use item::{Item, Sequence};
pub use model::{
    Attention, BlockFunction, BlockResults, HalfOf, Head, Init, Layout, Model, ModelContext, ModelHost, ModelSpec,
    ParameterSpec, Pass, Role,
};
pub use observer::{Event, Metrics, Observation, Observer, Sample, Started, Written};
pub use op::{Attribute, OpKind, Value};
pub use optimizer::{
    DeviceOptimizer, EvaluationWeights, Granularity, Initial, NewValues, Optimizer, StateMut, StateRef, StateShape,
    StateSpec, TypedSlices, TypedStates, Update, expect_states,
};
pub use prepare::{Evaluation, Generated, Generation, Prepare, PrepareContext, Reference, Sampling, TrainerParameters};
pub use raw_host_view::RawHostView;
pub use region::{Buffer, Region};
pub use services::{HostServices, LogLevel, Services, Setup};
pub use tensor::{HostView, HostViewMut, Operand, Tensor};
pub use tokenizer::{Completed, NamedFile, Rendered, SharedTokenizer, Tokenizer, Tokens, Vocabulary};
pub use trainer::{LanguageModel, Loss, Metric, ModelCalls, Trainer, TrainerContext};
pub use unique_keys::UniqueKeys;

#[doc(hidden)]
pub use inventory;
pub use {half, serde, serde_json};

/// What most plugins use.
pub mod prelude {
    pub use crate::{
        Attention, Batch, BatchRows, Bootstrap, Buffer, Capabilities, CommBackend, CommRegions, Communicator,
        Completed, Component, Compute, Content, DataSource, Datum, DeviceOptimizer, Dtype, Element, Error, ErrorCode,
        Evaluation, EvaluationWeights, Event, Example, Generated, Granularity, Head, HostArray, HostBatch, Init,
        Initial, Item, Kind, LanguageModel, Layout, Length, LogLevel, Loss, Message, Metric, Model, ModelContext,
        ModelSpec, NamedFile, NewValues, Observation, Observer, OpKind, Optimizer, Outcome, ParameterSpec,
        PointToPoint, Prepare, PrepareContext, ReduceOp, ReduceScatter, Reference, Region, Rendered, Result, Role,
        Sampling, Sequence, Services, Setup, SharedTokenizer, StateMut, StateRef, StateShape, StateSpec, Tensor,
        Tokenizer, Tokens, Trainer, TrainerContext, TrainerParameters, TypedSlices, TypedStates, Update, Vocabulary,
        Work, expect_states,
    };
}
