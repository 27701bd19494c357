//! What training leaves behind is a model like any other: checkpoints, output directories, and what is written for other programs.

mod exports;
mod sources;

use mdt_tests::{Job, run};
use serde_json::Value;

/// A job of four updates with held-out rows, an evaluation and a checkpoint after every second one.
fn job() -> Job {
    let job = Job::new().rows(0..24).set("trainer.max_steps", 4).set("trainer.eval_steps", 2);
    let rows = mdt_tests::root().join("tests/fixtures/training/train.jsonl");
    let text = std::fs::read_to_string(rows).expect("the fixture");
    let held_out = job.file("held-out.jsonl", text.lines().skip(100).take(9).collect::<Vec<_>>().join("\n"));
    job.set("data.eval", held_out.display()).set("checkpoint.save_steps", 2).set("checkpoint.keep", 0)
}

/// The held-out loss that training saw after an update.
fn seen(job: &Job, update: u64) -> Value {
    let line = job.metrics().into_iter().find(|line| line["step"] == update && line.get("eval_loss").is_some());
    line.expect("an evaluation")["eval_loss"].clone()
}

/// `evaluate` without a job file.
fn evaluated(job: &Job, arguments: &[&str]) -> Value {
    let rows = job.directory().join("held-out.jsonl").display().to_string();
    let run = run([&["evaluate", "--json", "--data", &rows], arguments].concat()).success();
    serde_json::from_str(&run.stdout).expect("JSON on standard output")
}
