//! Numbers that would spoil the weights end the job before the update, and the error says whose they are.

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
fn a_given_model_with_weights_that_are_not_finite_is_refused_by_the_name_of_the_tensor() {
    for bad in [f32::NAN, f32::INFINITY] {
        let job = Job::new();
        let model = job.directory().join("model");
        copy_files(&root().join("tests/fixtures/training/model"), &model);
        let mut weights = fs::read(model.join("model.safetensors")).expect("the weights");
        let last = weights.len() - 4;
        weights[last..].copy_from_slice(&bad.to_le_bytes());
        fs::write(model.join("model.safetensors"), weights).expect("spoiled weights");
        let job = job.set("model.path", model.display()).set("checkpoint.save_steps", 1);
        let failure = job.run().failure(4);
        assert_says(&failure, &["`model.norm.weight`", "not finite", "model.safetensors"]);
        assert!(!failure.contains("learning_rate"), "{failure}");
        assert!(!job.output().join("metrics.jsonl").exists() && !job.checkpoint(1).exists(), "nothing is trained");
    }
}

#[test]
fn weights_that_an_update_made_infinite_are_never_saved() {
    let job = Job::new().set("scheduler", "constant").set("optimizer.learning_rate", "1e300");
    let job = job.set("checkpoint.save_steps", 1);
    assert_says(&job.run().failure(6), &["is not finite after update 1", "lower `optimizer.learning_rate`"]);
    assert!(!job.checkpoint(1).exists() && !job.output().join("final").exists());
}

#[test]
fn weights_that_an_earlier_update_made_infinite_are_told_apart_from_bad_rows() {
    let job = Job::new().set("scheduler", "constant").set("optimizer.learning_rate", "1e300");
    let failure = job.set("checkpoint.save_steps", 0).run().failure(6);
    assert_says(&failure, &["update 2 is not finite", "after update 1", "lower `optimizer.learning_rate`"]);
    assert!(!failure.contains("look at these rows"), "{failure}");
}

/// A job whose trainer is `bytes`, which can be told to return other numbers than it should: two rows to an update.
fn bytes() -> Job {
    let job = Job::new().set("trainer", "bytes").set("trainer.batch_size", 1);
    job.set("checkpoint.save_steps", 1).set("trainer.gradient_accumulation_steps", 2)
}

#[test]
fn a_loss_weight_that_is_not_a_positive_number_stops_before_the_update_and_names_the_trainer() {
    for (weight, shown) in [("0.0", "0"), ("-3.0", "-3"), ("nan", "NaN"), ("inf", "inf")] {
        let job = bytes().set("trainer.weight", format!("'{weight}'"));
        let failure = job.run().failure(3);
        assert_says(&failure, &["the trainer `bytes`", &format!("weight {shown}"), "update 1", "train.jsonl row"]);
        assert_says(&failure, &["the update was not applied"]);
        assert!(job.updates().is_empty() && !job.output().join("final").exists());
    }
}

#[test]
fn a_negative_weight_in_one_micro_batch_leaves_the_weights_of_the_update_before() {
    // Two rows with an even number of supervised tokens, then one with an odd number beside one with an even number.
    let row = |word: &str| format!("{{\"prompt\": \"{word}\", \"completion\": \"{word}\"}}\n");
    let bytes = || {
        let job = bytes().set("trainer.odd_weight", "-1.0");
        let rows = job.file("rows.jsonl", ["ab", "abcd", "abc", "abcdef"].map(row).concat());
        job.set("data.train", rows.display())
    };
    let job = bytes();
    let failure = job.run().failure(3);
    assert_says(&failure, &["the trainer `bytes`", "weight -1", "update 2", "rows.jsonl row 3"]);
    assert!(!failure.contains("rows 3"), "row 4 has nothing to do with it: {failure}");
    assert_eq!(job.updates().len(), 1);
    assert!(!job.checkpoint(2).exists() && !job.output().join("final").exists());
    let one = bytes().set("trainer.max_steps", 1);
    one.run().success();
    assert!(tree_of(&job) == tree_of(&one), "the weights are those of update 1, byte for byte");
}

/// The arrays of the checkpoint of update 1.
fn tree_of(job: &Job) -> [Vec<u8>; 2] {
    ["model.safetensors", "optimizer.safetensors"].map(|name| fs::read(job.checkpoint(1).join(name)).expect(name))
}

#[test]
fn finite_gradients_whose_sum_overflows_stop_before_the_update() {
    // The gradient of the row is below the largest f32, that of 32 times the row is not.
    let one = bytes().rows(0..1).set("trainer.scale", "3e36");
    one.run().success();
    let row = fs::read_to_string(one.directory().join("train.jsonl")).expect("the row");
    let job = bytes().set("trainer.scale", "3e36").set("trainer.gradient_accumulation_steps", 32);
    let rows = job.file("rows.jsonl", vec![row; 32].join("\n"));
    let job = job.set("data.train", rows.display());
    let failure = job.run().failure(6);
    assert_says(&failure, &["gradients of update 1", "sum", "rows.jsonl rows 1, 2, 3", "the update was not applied"]);
    assert!(job.updates().is_empty() && !job.output().join("final").exists());
}

#[test]
fn a_mean_gradient_that_does_not_fit_into_f32_stops_before_the_update() {
    let job = bytes().set("trainer.weight", "'1e-45'").set("trainer.max_grad_norm", 0);
    assert_says(&job.run().failure(6), &["update 1", "the update was not applied"]);
    assert!(job.updates().is_empty());
}
