//! What hosts may rely on: every test is named for the promise it keeps.

mod faults;
mod gathers;
mod mismatches;
#[path = "../../../../tests/support/network.rs"]
mod network;
mod processes;
mod reductions;
mod relay;
mod rendezvous;
mod setup;
mod slow_and_damaged;
mod strangers;
mod tokens;
