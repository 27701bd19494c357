//! `cargo xtask test`: every check that a change must pass, cheapest first, with the set-up they need.

use std::{process::Command, time::Instant};

use crate::{
    Result, command, dependencies, dist,
    files::entries,
    mpi, sanitizer, setup, system,
    workspace::{cargo, root},
};

/// One check: its name, what to do when it fails, and how to run it.
struct Stage {
    name: &'static str,
    advice: &'static str,
    run: fn() -> Result<()>,
}

// Clippy and rustdoc need the metadata of dependencies, the build needs their code. All use the release profile, so
// each of the two is made once.
const STAGES: [Stage; 10] = [
    Stage { name: "setup", advice: "see the message above", run: setup::run },
    Stage { name: "fmt", advice: "run: cargo fmt --all (and in the example's folder)", run: fmt },
    Stage { name: "dependencies", advice: "xtask/src/dependencies.rs says what is allowed", run: dependencies::check },
    Stage {
        name: "clippy",
        advice: "see it again with: cargo clippy --release --workspace --all-targets",
        run: || command::run(cargo().args(CLIPPY)),
    },
    Stage {
        name: "doc",
        advice: "see it again with: cargo doc --release --workspace --no-deps",
        run: || command::run(cargo().env("RUSTDOCFLAGS", "-D warnings").args(DOC)),
    },
    Stage { name: "dist", advice: "see it again with: cargo xtask dist", run: dist::run },
    Stage {
        name: "test",
        advice: "run one test with: cargo test --release -p PACKAGE NAME",
        run: || command::run(cargo().args(["test", "--release", "--workspace"])),
    },
    Stage {
        name: "examples",
        advice: "run one with: cargo test --release --manifest-path examples/NAME/Cargo.toml",
        run: examples,
    },
    Stage {
        name: "mpi",
        advice: "run one with: cargo test --release --manifest-path plugins/mpi/Cargo.toml --target-dir target/examples",
        run: mpi::test,
    },
    Stage {
        name: "sanitizer",
        advice: "xtask/src/sanitizer.rs says how the boundary's tests are run",
        run: sanitizer::run,
    },
];

const CLIPPY: [&str; 7] = ["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"];
const DOC: [&str; 4] = ["doc", "--release", "--workspace", "--no-deps"];

/// Runs the stages in order, with a line for each, and stops at the first that fails.
pub fn run() -> Result<()> {
    system::require_cargo_components()?;
    let begin = Instant::now();
    for stage in &STAGES {
        let start = Instant::now();
        println!("xtask test: {}", stage.name);
        (stage.run)().map_err(|error| format!("{error}\n`{}` failed; {}", stage.name, stage.advice))?;
        println!("xtask test: {} passed ({:.1} s)", stage.name, start.elapsed().as_secs_f64());
    }
    println!("xtask test: all passed ({:.0} s)", begin.elapsed().as_secs_f64());
    Ok(())
}

/// The tests that example projects have of their own, with what the workspace's tests have built of them.
fn examples() -> Result<()> {
    for example in entries(&root().join("examples"))? {
        if example.join("tests").is_dir() {
            let mut test: Command = cargo();
            test.args(["test", "--release", "--manifest-path"]).arg(example.join("Cargo.toml"));
            command::run(test.arg("--target-dir").arg(root().join("target/examples")))?;
        }
    }
    Ok(())
}

/// The workspace, and the projects outside it.
fn fmt() -> Result<()> {
    command::run(cargo().args(["fmt", "--all", "--check"]))?;
    for project in entries(&root().join("examples"))?.into_iter().chain([root().join(mpi::FOLDER)]) {
        let manifest = project.join("Cargo.toml");
        if manifest.exists() {
            let mut fmt: Command = cargo();
            command::run(fmt.args(["fmt", "--check", "--manifest-path"]).arg(manifest))?;
        }
    }
    Ok(())
}
