//! What the whole-program tests share: the built program and plugins, jobs in temporary directories, runs of them.

pub mod boundary;
mod build;
mod directory;
pub mod families;
mod hub;
mod job;
mod library;
mod model;
mod network;
mod numbers;
mod process;
mod run;
mod terminal;

pub use build::{built, cargo, example_plugin, root};
pub use directory::{copy_files, tree};
pub use hub::Hub;
pub use job::Job;
pub use library::{library, library_name, lock_file, patched};
pub use model::{LoadedModel, library_job};
pub use network::{Network, Relay, free_port, free_ports};
pub use numbers::{arrays, integers, relative_difference};
pub use process::Process;
pub use run::{Run, assert_says, command, run, run_where};
pub use terminal::{Typing, on_terminal};
