//! Several processes train as one: the same bits, one stop for all, and an error that names a rank that was lost.

mod agreement;
mod encrypted;
mod engines;
mod equality;
mod faults;
#[path = "../support/grpc_client.rs"]
mod grpc_client;
mod launching;
#[cfg(target_os = "linux")]
mod memory;
mod other_world_size;
mod overlapping;
mod preparing;
mod restarts;
mod sharding;
mod slow_and_damaged;
mod status;
mod stopping;
mod tokens;
mod unequal;
mod uneven;

use std::fs;

use mdt_tests::{Job, Process, Run, command, copy_files, root};
use serde_json::Value;

/// A job of 50 updates, each of two micro-batches of two rows: over one rank or split over several.
fn job(micro_batches: u32) -> Job {
    Job::new()
        .rows(0..30)
        .set("trainer.batch_size", 2)
        .set("trainer.gradient_accumulation_steps", micro_batches)
        .set("trainer.max_steps", 50)
        .set("data.shuffle", true)
        .set("compute.threads", 1)
}

/// The same from random weights of a model with layers so wide.
fn wide(job: Job, width: u64) -> Job {
    let fixture = root().join("tests/fixtures/training/model");
    copy_files(&fixture, &job.directory().join("model"));
    let config = fs::read_to_string(fixture.join("config.json")).expect("the fixture");
    let mut config: Value = serde_json::from_str(&config).expect("JSON");
    config["intermediate_size"] = width.into();
    let config = job.file("model/config.json", config.to_string());
    let model = config.parent().expect("a directory").display().to_string();
    job.set("model.path", model).set("model.init", "random")
}

/// The command that starts a job with this many ranks.
fn launch(job: &Job, ranks: u32) -> std::process::Command {
    let mut command = command();
    command.args(["launch", "-n", &ranks.to_string()]).args(job.arguments());
    command.args(["--set", "comm.use=grpc"]);
    command
}

/// The job token of ranks that are started one by one.
const TOKEN: &str = "the same secret on all ranks, 32 characters or more";

/// Starts one of two ranks, which meet at this port.
fn start_rank(job: &Job, rank: u32, port: u16) -> Process {
    Process::start(&mut rank_command(job, rank, port))
}

/// The command that starts one of two ranks.
fn rank_command(job: &Job, rank: u32, port: u16) -> std::process::Command {
    let mut command = command();
    command.args(job.arguments()).args(["--set", "comm.use=grpc", "--set", "comm.world_size=2"]);
    command.args(["--set", &format!("comm.rank={rank}"), "--set", &format!("comm.port={port}")]);
    command.env("MDT_JOB_TOKEN", TOKEN);
    command
}

/// Runs a job with this many ranks to its end.
fn run(job: &Job, ranks: u32) -> Run {
    Process::start(&mut launch(job, ranks)).end()
}

/// The lines that a rank of a launched job wrote, without its label.
fn lines_of(run: &Run, rank: u32) -> Vec<&str> {
    let label = format!("[rank {rank}] ");
    run.stderr.lines().filter_map(|line| line.strip_prefix(&label)).collect()
}

/// The one error that a rank wrote: everything from it on.
#[track_caller]
fn error_of(run: &Run, rank: u32) -> String {
    let lines = lines_of(run, rank);
    let place = lines.iter().position(|line| line.starts_with("error:"));
    let place = place.unwrap_or_else(|| panic!("rank {rank} has no error:\n{}", run.stderr));
    lines[place..].join("\n")
}

/// The error that the launching process itself printed at the end.
#[track_caller]
fn last_error(run: &Run) -> String {
    let errors: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("error:")).collect();
    assert_eq!(errors.len(), 1, "{}", run.stderr);
    run.stderr[run.stderr.find("\nerror:").map_or(0, |place| place + 1)..].to_owned()
}
