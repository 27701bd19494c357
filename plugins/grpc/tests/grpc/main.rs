//! What hosts may rely on: every test is named for the promise it keeps.

mod faults;
mod gathers;
mod mismatches;
mod processes;
mod reductions;
mod relay;
mod rendezvous;
mod setup;
mod strangers;
mod tokens;
