//! Trap 5: a loss or gradient that is not finite ends the job before the update, with status 6 and the rows.

use std::fs;

use mdt_tests::{Job, assert_says, copy_files, root, tree};

#[test]
fn an_overflow_stops_before_the_update_and_leaves_the_weights_of_the_last_one() {
    let base = |job: Job| job.set("scheduler", "constant").set("optimizer.learning_rate", "1e30");
    let job = base(Job::new()).set("checkpoint.save_steps", 1);
    let failure = job.run().failure(6);
    assert_says(&failure, &["the loss or gradient of update 2 is not finite", "the update was not applied"]);
    assert_says(&failure, &["tests/fixtures/training/train.jsonl rows 9, 10, 11, 12, 13, 14, 15, 16"]);
    assert_says(&failure, &["lower `optimizer.learning_rate`"]);
    assert_eq!(job.updates().len(), 1, "no line for an update that was not made");
    assert!(!job.checkpoint(2).exists() && !job.output().join("final").exists());

    // The weights are those of a run that was never asked for update 2, byte for byte.
    let one = base(Job::new()).set("trainer.max_steps", 1);
    one.run().success();
    let weights = |job: &Job| fs::read(job.checkpoint(1).join("model.safetensors")).expect("weights");
    assert!(weights(&job) == weights(&one));

    // Going on from there comes to the same stop and spoils nothing.
    let before = tree(&job.output());
    job.run().failure(6);
    assert!(tree(&job.output()) == before);
}

#[test]
fn a_weight_that_is_no_number_stops_the_first_update() {
    for bad in [f32::NAN, f32::INFINITY] {
        let job = Job::new();
        let model = job.directory().join("model");
        copy_files(&root().join("tests/fixtures/training/model"), &model);
        let mut weights = fs::read(model.join("model.safetensors")).expect("the weights");
        let last = weights.len() - 4;
        weights[last..].copy_from_slice(&bad.to_le_bytes());
        fs::write(model.join("model.safetensors"), weights).expect("spoiled weights");
        let job = job.set("model.path", model.display()).set("checkpoint.save_steps", 1);
        let failure = job.run().failure(6);
        assert_says(&failure, &["the loss or gradient of update 1 is not finite", "train.jsonl rows 1, 2, 3, 4"]);
        assert!(!job.checkpoint(1).exists() && job.updates().is_empty());
    }
}

#[test]
fn weights_that_an_update_made_infinite_are_never_saved() {
    let job = Job::new().set("scheduler", "constant").set("optimizer.learning_rate", "1e300");
    let job = job.set("checkpoint.save_steps", 1);
    assert_says(&job.run().failure(6), &["is not finite after update 1", "lower `optimizer.learning_rate`"]);
    assert!(!job.checkpoint(1).exists() && !job.output().join("final").exists());
}
