//! What hosts may rely on over TCP: every test is named for the promise it keeps. Most run over shared memory too: see
//! `tests/shared_memory`.

mod element_types;
mod faults;
mod gathers;
mod mismatches;
#[path = "../../../../tests/support/network.rs"]
mod network;
mod point_to_point;
mod processes;
mod reductions;
mod relay;
mod rendezvous;
mod setup;
mod slow_and_damaged;
mod strangers;
mod tokens;

/// How the ranks of these tests exchange payload.
const SHARED_MEMORY: mdt_grpc::SharedMemoryUse = mdt_grpc::SharedMemoryUse::Off;
