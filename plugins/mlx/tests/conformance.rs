//! The device computes every operation as the boundary defines it.
//!
//! MLX reports an error of a kernel to whoever evaluates next in the process, so this has a process of its own.

#[allow(dead_code, reason = "shared with other tests")]
#[path = "../src/tests/setup.rs"]
mod setup;

use mdt_mlx::{Config, DeviceChoice, Mlx};

#[test]
fn every_operation_is_computed_as_it_is_defined() {
    mdt_conformance::assert_conforms(&setup::cpu());
}
