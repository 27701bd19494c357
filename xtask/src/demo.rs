//! `cargo xtask demo`: from a fresh checkout to a trained model, with the staged program.

use std::process::Command;

use crate::{Result, command, dist, setup, workspace};

/// Sets up, builds, stages, and runs the job of `examples/demo` with `arguments` appended to the command line.
pub fn run(arguments: &[String]) -> Result<()> {
    setup::run()?;
    dist::run()?;
    command::run(host().args(["--config", "examples/demo/demo.toml"]).args(arguments))
}

/// The staged `mdt-host`, started in the top folder: the demo's configuration names its files from there.
fn host() -> Command {
    let root = workspace::root();
    let mut host = Command::new(root.join("dist/bin/mdt-host"));
    host.current_dir(root);
    host
}
