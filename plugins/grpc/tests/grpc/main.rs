//! What hosts may rely on: every test is named for the promise it keeps.

mod gathers;
mod mismatches;
mod reductions;
mod rendezvous;
mod setup;
