//! `cargo xtask demo`: from a fresh checkout to a trained model, with the staged program.

use std::process::Command;

use crate::{Result, command, dist, setup, workspace};

const CONFIG: &str = "examples/demo/demo.toml";
const HELD_OUT: &str = "examples/demo/heldout.jsonl";
const OUTPUT: &str = "outputs/demo";

/// Sets up, builds, stages, and runs the job of `examples/demo` with `arguments` appended to the command line; asks the
/// model the held-out questions before and after.
pub fn run(arguments: &[String]) -> Result<()> {
    setup::run()?;
    dist::run()?;
    heading("Before: the model with random weights answers prompts that are not in the training data");
    command::run(ask().args(["--config", CONFIG]))?;
    heading("Training; Ctrl-C stops it, and the same command goes on from there");
    command::run(host().args(["--config", CONFIG]).args(arguments))?;
    heading("After");
    let trained = format!("{OUTPUT}/final");
    command::run(ask().args(["--model", &trained]))?;
    println!();
    println!("trained model    {trained} (transformers and mlx-lm load it as it is)");
    println!("picture of loss  {OUTPUT}/loss.svg");
    println!("ask it yourself  dist/bin/mdt-host generate --model {trained} --prompt \"Reverse WXYZ.\"");
    println!("to train again   rm -r {OUTPUT}; cargo xtask demo");
    Ok(())
}

fn heading(text: &str) {
    println!("\n== {text}");
}

/// The staged program, asked the held-out questions: three are shown, all are counted.
fn ask() -> Command {
    let mut host = host();
    host.args(["generate", "--data", HELD_OUT, "--show", "3", "--max-tokens", "16"]);
    host
}

/// The staged `mdt-host`, started in the top folder: the demo's configuration names its files from there.
fn host() -> Command {
    let root = workspace::root();
    let mut host = Command::new(root.join("dist/bin/mdt-host"));
    host.current_dir(root);
    host
}
