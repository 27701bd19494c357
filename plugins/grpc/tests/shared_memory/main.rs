//! What hosts may rely on where the ranks of one host share memory: what they may rely on over TCP, and what memory adds to
//! it. Where memory cannot be shared, all of it is promised over TCP.

#[path = "../grpc/faults.rs"]
mod faults;
#[path = "../grpc/gathers.rs"]
mod gathers;
mod memory;
#[path = "../grpc/mismatches.rs"]
mod mismatches;
#[path = "../../../../tests/support/network.rs"]
#[allow(dead_code, reason = "shared with tests over TCP")]
mod network;
#[path = "../grpc/processes.rs"]
#[allow(dead_code, reason = "shared with tests over TCP")]
mod processes;
#[path = "../grpc/reductions.rs"]
mod reductions;
#[path = "../grpc/setup.rs"]
#[allow(dead_code, reason = "shared with tests over TCP")]
mod setup;

/// How the ranks of these tests exchange payload.
const SHARED_MEMORY: mdt_grpc::SharedMemoryUse = mdt_grpc::SharedMemoryUse::Auto;
