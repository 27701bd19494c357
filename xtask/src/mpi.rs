//! The plugin `mpi`, a project outside of the workspace: most machines lack what it needs.

use std::{
    env,
    path::PathBuf,
    process::{Command, Stdio},
};

use crate::{Result, command, workspace};

/// Its folder in the repository.
pub const FOLDER: &str = "plugins/mpi";

/// Builds it, and returns its library. What it shares with the example projects is compiled once.
pub fn build() -> Result<PathBuf> {
    if !is_possible() {
        return Err("the plugin `mpi` needs an MPI library and libclang\n  on Debian and Ubuntu: sudo apt install \
                    openmpi-bin libopenmpi-dev libclang-dev"
            .into());
    }
    command::run(&mut cargo("build"))?;
    let file = format!("{}mdt_mpi{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX);
    Ok(target().join("release").join(file))
}

/// Runs its own checks and tests, where it can be built.
pub fn test() -> Result<()> {
    if !is_possible() && env::var_os("CI").is_none() {
        println!("not checked: plugins/mpi, as there is no mpicc");
        return Ok(());
    }
    let mut clippy = cargo("clippy");
    command::run(clippy.args(["--all-targets", "--", "-D", "warnings"]))?;
    command::run(&mut cargo("test"))
}

/// Whether this machine has the compiler of an MPI library.
fn is_possible() -> bool {
    let mut mpicc = Command::new(env::var_os("MPICC").unwrap_or_else(|| "mpicc".into()));
    mpicc.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    mpicc.status().is_ok_and(|status| status.success())
}

fn cargo(what: &str) -> Command {
    let mut cargo = workspace::cargo();
    cargo.args([what, "--release", "--manifest-path"]).arg(workspace::root().join(FOLDER).join("Cargo.toml"));
    cargo.arg("--target-dir").arg(target());
    cargo
}

fn target() -> PathBuf {
    workspace::root().join("target/examples")
}
