//! The version of the boundary, and the interfaces of each kind of component on it.

use super::compute::ComputeTensors;
use super::model::HostWeights;
use super::services::HostFunctions;
use super::table::Table;
use super::tokenizer::TokenizerText;
use super::trainer::HostModel;

/// The version of the boundary: what a plugin must be built for. While it is 0.x, x counts.
///
/// It says what an entry and an object are. Interfaces have numbers of their own.
pub const ABI_VERSION: &str = crate::__abi_version!();

/// The interfaces that this host gives to components.
pub const HOST_INTERFACES: [&str; 5] =
    [HostFunctions::NAME, HostWeights::NAME, HostModel::NAME, ComputeTensors::NAME, TokenizerText::NAME];

/// The version of the boundary as a literal, for records.
#[doc(hidden)]
#[macro_export]
macro_rules! __abi_version {
    () => {
        "0.2"
    };
}

/// The interface of a kind's components as a literal, for records.
#[doc(hidden)]
#[macro_export]
macro_rules! __interface {
    (compute) => {
        "compute.tensors/1"
    };
    (model) => {
        "model.forward/1"
    };
    (tokenizer) => {
        "tokenizer.text/1"
    };
    (trainer) => {
        "trainer.objective/1"
    };
    (optimizer) => {
        "optimizer.slices/1"
    };
    (data) => {
        "data.rows/1"
    };
    (comm) => {
        "comm.backend/1"
    };
    (observer) => {
        "observer.events/1"
    };
}

/// The interfaces that a kind's components need from the host, as a list in JSON, for records.
#[doc(hidden)]
#[macro_export]
macro_rules! __needs {
    (model) => {
        r#"["host.services/1","host.weights/1","compute.tensors/1"]"#
    };
    (trainer) => {
        r#"["host.services/1","host.model/1","compute.tensors/1","tokenizer.text/1"]"#
    };
    ($kind:ident) => {
        r#"["host.services/1"]"#
    };
}
