//! The version of the boundary, and the interfaces of each kind of component on it.

use super::compute::ComputeTensors;
use super::model::HostWeights;
use super::services::HostFunctions;
use super::table::Table;
use super::trainer::HostModel;

/// The version of the boundary: what a plugin must be built for. While it is 0.x, x counts.
///
/// It says what an entry and an object are. Interfaces have numbers of their own.
pub const ABI_VERSION: &str = crate::__abi_version!();

/// The interfaces that this host gives to components.
pub const HOST_INTERFACES: [&str; 4] = [HostFunctions::NAME, HostWeights::NAME, HostModel::NAME, ComputeTensors::NAME];

/// The version of the boundary as a literal, for records.
#[doc(hidden)]
#[macro_export]
macro_rules! __abi_version {
    () => {
        "0.2"
    };
}

/// What is in a component's record beside its kind and id, by kind: the interfaces that it has, and those that it needs.
#[doc(hidden)]
#[macro_export]
macro_rules! __interfaces {
    (compute) => {
        r#""interfaces":["compute.tensors/1"],"needs":["host.services/1"]"#
    };
    (model) => {
        r#""interfaces":["model.forward/1"],"needs":["host.services/1","host.weights/1","compute.tensors/1"]"#
    };
    (trainer) => {
        r#""interfaces":["trainer.objective/1"],"needs":["host.services/1","host.model/1","compute.tensors/1"]"#
    };
    (optimizer) => {
        r#""interfaces":["optimizer.slices/1"],"needs":["host.services/1"]"#
    };
    (data) => {
        r#""interfaces":["data.examples/1"],"needs":["host.services/1"]"#
    };
    (comm) => {
        r#""interfaces":["comm.backend/1"],"needs":["host.services/1"]"#
    };
}
