//! The version of the boundary, and the interfaces of each kind of component on it.

use super::compute::{ComputeTensors, HostFunction};
use super::model::HostForward;
use super::prepare::HostGeneration;
use super::services::HostFunctions;
use super::table::Table;
use super::tokenizer::TokenizerText;
use super::trainer::HostModel;

/// The version of the boundary: what a plugin must be built for. While it is 0.x, x counts.
///
/// It says what an entry and an object are. Interfaces have numbers of their own.
pub const ABI_VERSION: &str = crate::__abi_version!();

/// The interfaces that this host gives to components.
pub const HOST_INTERFACES: [&str; 7] = [
    HostFunctions::NAME,
    HostFunction::NAME,
    HostForward::NAME,
    HostModel::NAME,
    HostGeneration::NAME,
    ComputeTensors::NAME,
    TokenizerText::NAME,
];

/// The version of the boundary as a literal, for records.
#[doc(hidden)]
#[macro_export]
macro_rules! __abi_version {
    () => {
        "0.2"
    };
}

/// The interface of a kind's components, or of one of their abilities, as a literal, for records.
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
    (trainer prepare) => {
        "trainer.prepare/1"
    };
    (trainer reference) => {
        "trainer.reference/1"
    };
    (trainer evaluation) => {
        "trainer.evaluation/1"
    };
    (trainer parameters) => {
        "trainer.parameters/1"
    };
    (optimizer slices) => {
        "optimizer.slices/1"
    };
    (optimizer typed_states) => {
        "optimizer.typed_states/1"
    };
    (optimizer typed_slices) => {
        "optimizer.typed_slices/1"
    };
    (optimizer device) => {
        "optimizer.device/1"
    };
    (optimizer evaluation_weights) => {
        "optimizer.evaluation_weights/1"
    };
    (data) => {
        "data.rows/1"
    };
    (comm) => {
        "comm.backend/1"
    };
    (comm point_to_point) => {
        "comm.point_to_point/1"
    };
    (comm reduce_scatter) => {
        "comm.reduce_scatter/1"
    };
    (comm regions) => {
        "comm.regions/1"
    };
    (observer) => {
        "observer.events/1"
    };
    ($kind:ident) => {
        compile_error!(concat!("there is no kind of component `", stringify!($kind), "`"))
    };
    ($kind:ident $ability:ident) => {
        compile_error!(concat!(
            "no ",
            stringify!($kind),
            " has an ability `",
            stringify!($ability),
            "`: the table of the macro `plugin!` has the abilities of each kind"
        ))
    };
}

/// The interfaces of a component with these abilities, as the items of a list in JSON, for records.
#[doc(hidden)]
#[macro_export]
macro_rules! __interfaces {
    (optimizer) => {
        $crate::__interfaces!(optimizer slices)
    };
    (optimizer $first:ident $($ability:ident)*) => {
        concat!("\"", $crate::__interface!(optimizer $first), $("\",\"", $crate::__interface!(optimizer $ability),)* "\"")
    };
    ($kind:ident $($ability:ident)*) => {
        concat!("\"", $crate::__interface!($kind), $("\",\"", $crate::__interface!($kind $ability),)* "\"")
    };
}

/// The interfaces that a component needs from the host, as the items of a list in JSON, for records.
#[doc(hidden)]
#[macro_export]
macro_rules! __needs {
    (compute $($ability:ident)*) => {
        r#""host.services/1","host.function/1""#
    };
    (model $($ability:ident)*) => {
        r#""host.services/1","host.forward/1","compute.tensors/1""#
    };
    (trainer) => {
        r#""host.services/1","host.model/1","compute.tensors/1","tokenizer.text/1""#
    };
    (trainer reference $($ability:ident)*) => {
        $crate::__needs!(trainer $($ability)*)
    };
    (trainer $($ability:ident)+) => {
        r#""host.services/1","host.model/1","host.generation/1","compute.tensors/1","tokenizer.text/1""#
    };
    (optimizer device $($ability:ident)*) => {
        r#""host.services/1","compute.tensors/1""#
    };
    (optimizer $first:ident $($ability:ident)+) => {
        $crate::__needs!(optimizer $($ability)+)
    };
    ($kind:ident $($ability:ident)*) => {
        r#""host.services/1""#
    };
}
