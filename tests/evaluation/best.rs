//! The checkpoint of the best evaluation: kept, told, and exported on request.

use std::fs;
use std::path::Path;

use mdt_tests::{Job, arrays, assert_says, copy_files, root};
use serde_json::Value;

use super::{best, checkpoints, held_out_losses, overfitting};

/// Evaluates the weights of a checkpoint or a model on the held-out rows of another job.
fn held_out_loss_of(weights: &Path, of: &Job) -> f64 {
    let job = Job::new().rows(0..8).set("trainer.max_steps", 1).set("optimizer.learning_rate", 0);
    let model = job.directory().join("model");
    copy_files(&root().join("tests/fixtures/training/model"), &model);
    fs::copy(weights.join("model.safetensors"), model.join("model.safetensors")).expect("the weights");
    let job = job.set("model.path", model.display());
    let job = job.set("data.eval", of.directory().join("held-out.jsonl").display());
    job.run().success();
    held_out_losses(&job)[0].1
}

#[test]
fn it_survives_pruning_and_its_weights_have_its_loss() {
    let job = overfitting().set("checkpoint.keep", 1).set("checkpoint.save_steps", 5).set("checkpoint.keep_best", true);
    job.run().success();
    let (update, loss) = best(&held_out_losses(&job));
    assert!(update < 16, "the held-out loss must rise again for this test, its lowest is after update {update}");
    assert_eq!(checkpoints(&job), [update, 20]);
    let text = fs::read_to_string(job.output().join("checkpoints/best.json")).expect("best.json");
    let told: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((told["step"].as_u64(), told["eval_loss"].as_f64()), (Some(update), Some(loss)));
    assert_eq!(told["checkpoint"], format!("step-{update:06}"));
    assert_eq!(held_out_loss_of(&job.checkpoint(update), &job), loss);
    // The exported weights are the last ones unless the best are asked for.
    assert!(held_out_loss_of(&job.output().join("final"), &job) > loss);
}

#[test]
fn without_the_key_no_checkpoint_is_written_for_it() {
    let job = overfitting().set("checkpoint.keep", 1).set("checkpoint.save_steps", 5);
    job.run().success();
    assert_eq!(checkpoints(&job), [20]);
    assert!(!job.output().join("checkpoints/best.json").exists());
}

#[test]
fn the_best_weights_are_exported_on_request_by_the_run_and_by_one_that_finds_it_finished() {
    let job = overfitting().set("checkpoint.keep", 1).set("checkpoint.export", "best");
    let run = job.run().success();
    let (update, loss) = best(&held_out_losses(&job));
    let exported = |job: &Job| arrays(&job.output().join("final/model.safetensors"));
    let saved = |job: &Job, update| arrays(&job.checkpoint(update).join("model.safetensors"));
    assert!(exported(&job) == saved(&job, update));
    assert_says(&run.stderr, &[&format!("(the best: held-out loss {loss:.4} after update {update})")]);

    job.run_with(&["--set", "checkpoint.export=last", "--set", "checkpoint.keep_best=true"]).success();
    assert!(exported(&job) == saved(&job, 20));
    job.run().success();
    assert!(exported(&job) == saved(&job, update));

    // Somebody deleted it: the message says what it was for and what can be had.
    fs::remove_dir_all(job.checkpoint(update)).expect("the best checkpoint");
    let failure = job.run().failure(7);
    assert_says(&failure, &["there is no checkpoint", &format!("step-{update:06}"), "`checkpoint.export` asks for"]);
    assert_says(&failure, &["--set checkpoint.export=last"]);
}

#[test]
fn a_run_that_was_stopped_knows_the_best_of_before() {
    let keep =
        |job: Job| job.set("checkpoint.keep", 1).set("checkpoint.save_steps", 1).set("checkpoint.export", "best");
    let straight = keep(overfitting());
    straight.run().success();
    let (update, _) = best(&held_out_losses(&straight));

    // Stopped after the best evaluation: the checkpoint of 20 updates goes, and one of fewer takes its place.
    let stopped = keep(overfitting()).set("checkpoint.keep", 0);
    stopped.run().success();
    (update + 2..=20).for_each(|later| fs::remove_dir_all(stopped.checkpoint(later)).expect("a checkpoint"));
    fs::remove_dir_all(stopped.output().join("final")).expect("the model");
    stopped.run_with(&["--set", "checkpoint.keep=1"]).success();
    assert_eq!(checkpoints(&stopped), [update, 20]);
    assert!(stopped.final_weights() == straight.final_weights());
    assert_eq!(stopped.unmeasured(), straight.unmeasured());
}
