//! The held-out loss: what it is, and what is decided by it.

mod alone;
mod best;
mod early_stop;
mod loss;

use std::fs;

use mdt_tests::{Job, root};
use serde_json::Value;

/// Twenty updates at a rate that is too high, evaluated after every second one on rows that are not trained: the
/// held-out loss falls, and then it does not.
fn overfitting() -> Job {
    let job = Job::new()
        .rows(0..12)
        .set("trainer.max_steps", 20)
        .set("trainer.eval_steps", 2)
        .set("scheduler", "constant")
        .set("optimizer.learning_rate", 3e-2)
        .set("data.shuffle", true);
    hold_out(job, 100..113)
}

/// Evaluates on these rows of the fixture, counted from 0.
fn hold_out(job: Job, rows: std::ops::Range<usize>) -> Job {
    let text = fs::read_to_string(root().join("tests/fixtures/training/train.jsonl")).expect("the fixture");
    let lines: Vec<_> = text.lines().skip(rows.start).take(rows.len()).collect();
    let path = job.file("held-out.jsonl", lines.join("\n"));
    job.set("data.eval", path.display())
}

/// The lines of all evaluations.
fn evaluations(job: &Job) -> Vec<Value> {
    job.metrics().into_iter().filter(|line| line.get("eval_loss").is_some()).collect()
}

/// Update and held-out loss of all evaluations.
fn held_out_losses(job: &Job) -> Vec<(u64, f64)> {
    let number = |line: &Value| (line["step"].as_u64().expect("a step"), line["eval_loss"].as_f64().expect("a loss"));
    evaluations(job).iter().map(number).collect()
}

/// The evaluation with the lowest loss.
fn best(losses: &[(u64, f64)]) -> (u64, f64) {
    losses.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1)).expect("an evaluation")
}

/// The updates whose checkpoints are there.
fn checkpoints(job: &Job) -> Vec<u64> {
    let entries = fs::read_dir(job.output().join("checkpoints")).expect("checkpoints");
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    let mut updates: Vec<u64> =
        names.filter_map(|name| name.strip_prefix("step-").map(|update| update.parse().expect("an update"))).collect();
    updates.sort_unstable();
    updates
}
