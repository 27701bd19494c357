//! What changes when a job goes on: from one update on, to the same bits in every run, and recorded.

use std::fs;

use mdt_tests::{Job, assert_says};
use serde_json::{Value, json};

use super::{assert_same_result, job, rewind};

/// The history in the checkpoint of an update.
fn history(job: &Job, update: u64) -> Value {
    let text = fs::read(job.checkpoint(update).join("state.json")).expect("a checkpoint");
    serde_json::from_slice::<Value>(&text).expect("JSON")["history"].clone()
}

fn constant(updates: u64) -> Job {
    job(updates).set("scheduler", "constant")
}

#[test]
fn a_finished_job_goes_on_with_more_updates_as_one_that_had_them_from_the_beginning() {
    for streaming in [false, true] {
        let job = |steps| constant(steps).set("data.streaming", streaming);
        let (straight, longer) = (job(10), job(6));
        straight.run().success();
        longer.run().success();
        let run = longer.run_with(&["--set", "trainer.max_steps=10"]).success();
        assert_says(&run.stderr, &["changed  trainer.max_steps is 10, was 6 until update 6"]);
        assert_same_result(&straight, &longer, 10);
        assert_eq!(history(&longer, 10), json!([{ "after": 6, "keys": { "trainer.max_steps": [6, 10] } }]));
        assert_eq!(history(&straight, 10), json!([]));
    }
}

#[test]
fn a_finished_job_goes_on_with_more_epochs() {
    let epochs = |epochs: u64| Job::new().rows(0..22).set("scheduler", "constant").set("trainer.num_epochs", epochs);
    let [straight, longer] = [2, 1].map(|number| epochs(number).set("data.shuffle", true).set("trainer.batch_size", 4));
    straight.run().success();
    longer.run().success();
    longer.run_with(&["--set", "trainer.num_epochs=2"]).success();
    assert!(straight.final_weights() == longer.final_weights());
}

#[test]
fn the_same_change_at_the_same_update_has_the_same_bits_in_every_run_and_after_every_stop() {
    let changes: Vec<&str> = ["optimizer.learning_rate=5e-4", "scheduler=linear", "trainer.max_steps=9"]
        .into_iter()
        .chain(["optimizer.weight_decay=0.3", "trainer.max_grad_norm=0.2"])
        .flat_map(|change| ["--set", change])
        .collect();
    let jobs = [job(8), job(8), job(8)];
    for job in &jobs {
        job.run().success();
        rewind(job, 4, 8);
        let run = job.run_with(&changes).success();
        let said = ["optimizer.learning_rate is 0.0005, was 0.001 until update 4", "scheduler.use is \"linear\", was"];
        assert_says(&run.stderr, &said);
    }
    // Of the third one a run is stopped after the change, and goes on with nothing changed any more.
    rewind(&jobs[2], 6, 9);
    let run = jobs[2].run_with(&changes).success();
    assert!(!run.stderr.contains("changed "), "{}", run.stderr);
    jobs[1..].iter().for_each(|job| assert_same_result(&jobs[0], job, 9));
    assert_eq!(history(&jobs[2], 9), history(&jobs[0], 9));
    assert_eq!(history(&jobs[0], 9)[0]["keys"].as_object().map(serde_json::Map::len), Some(5));
}

#[test]
fn what_changes_no_update_is_named_and_recorded_too() {
    let job = job(4);
    job.run().success();
    rewind(&job, 2, 4);
    let run = job.run_with(&["--set", "checkpoint.keep=9", "--set", "metrics.every=2"]).success();
    assert_says(&run.stderr, &["changed  checkpoint.keep, metrics.every, on which no update depends"]);
    assert_eq!(history(&job, 4)[0]["keys"]["checkpoint.keep"], json!([0, 9]));
    // A second change follows the first.
    rewind(&job, 3, 4);
    job.run_with(&["--set", "optimizer.learning_rate=1e-5"]).success();
    let history = history(&job, 4);
    assert_eq!(history.as_array().map(Vec::len), Some(2), "{history}");
    assert_eq!(history[1]["after"], 3);
    assert_eq!(history[1]["keys"]["optimizer.learning_rate"], json!([1e-3, 1e-5]));
}

#[test]
fn an_end_before_the_checkpoint_is_refused() {
    let job = job(4);
    job.run().success();
    let error = job.run_with(&["--set", "trainer.max_steps=3"]).failure(2);
    assert_says(&error, &["`trainer.max_steps` is 3", "was 4", "4 are done", "checkpoint.resume=DIR"]);
}
