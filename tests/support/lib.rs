//! What the whole-program tests share: the built program and plugins, jobs in temporary directories, runs of them.

mod build;
mod job;
mod run;

pub use build::{built, example_plugin, root};
pub use job::Job;
pub use run::{Run, command, run};
