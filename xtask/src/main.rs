//! Developer commands: `cargo xtask <command>`. Run without one, it lists them.

mod bench;
mod command;
mod demo;
mod dependencies;
mod dist;
mod files;
mod freeze;
mod licences;
mod mpi;
mod sanitizer;
mod setup;
mod system;
mod test;
mod workspace;

use std::{env, error::Error, process::ExitCode};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "\
usage: cargo xtask <command>

  demo    sets up, builds, and trains a small model; further arguments go to mdt-host
  test    sets up, builds, and runs every check and test
  bench   measures this project beside its peers (PyTorch, ...), in turns; further arguments choose comparisons
  dist    sets up, builds, and stages the program with its plugins under dist/; `--with mpi` adds the plugin `mpi`, which
          needs an MPI library with mpicc, and libclang
  freeze  packs the boundary of this version for the tests of later ones; with a folder, copies it there
  setup   gets MLX and links it for Rust (Linux; on macOS the build of mlx-sys does that)
";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let outcome = match arguments.split_first().map(|(name, rest)| (name.as_str(), rest)) {
        Some(("demo", rest)) => demo::run(rest),
        Some(("test", [])) => test::run(),
        Some(("bench", names)) => bench::run(names),
        Some(("dist", [])) => setup::run().and_then(|()| dist::run()),
        Some(("dist", [with, mpi])) if with == "--with" && mpi == "mpi" => {
            setup::run().and_then(|()| dist::run_with_mpi())
        }
        Some(("freeze", [])) => freeze::run(),
        Some(("freeze", [folder])) => freeze::stage(folder.as_ref()),
        Some(("setup", [])) => setup::run(),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
