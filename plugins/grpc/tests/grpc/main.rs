//! What hosts may rely on over TCP: every test is named for the promise it keeps. Most run over shared memory too: see
//! `tests/shared_memory`.

mod addresses;
mod authority;
mod crowds;
mod element_types;
mod encrypted;
mod faults;
mod gathers;
#[path = "../../../../tests/support/grpc_client.rs"]
mod grpc_client;
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
mod status;
mod strangers;
mod tokens;

/// How the ranks of these tests exchange payload.
const SHARED_MEMORY: mdt_grpc::SharedMemoryUse = mdt_grpc::SharedMemoryUse::Off;
