//! An incomplete or damaged checkpoint is never resumed from.

use std::fs;
use std::path::Path;

use mdt_tests::Job;

use super::{assert_same_result, job};

fn delete(path: &Path) {
    fs::remove_file(path).expect("a file of a checkpoint");
}

fn truncate(path: &Path) {
    let bytes = fs::read(path).expect("a file of a checkpoint");
    fs::write(path, &bytes[..bytes.len() / 2]).expect("half of it");
}

fn flip_a_bit(path: &Path) {
    let mut bytes = fs::read(path).expect("a file of a checkpoint");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(path, bytes).expect("all but a bit of it");
}

/// Ways to damage a checkpoint: a name, the file, what is done to it.
type Damage = (&'static str, fn(&Path));

const DAMAGE: [Damage; 6] = [
    ("manifest.json", delete),
    ("manifest.json", truncate),
    ("model.safetensors", delete),
    ("optimizer.safetensors", truncate),
    ("model.safetensors", flip_a_bit),
    ("state.json", flip_a_bit),
];

fn finished() -> Job {
    let job = job(6).set("checkpoint.save_steps", 2);
    job.run().success();
    job
}

#[test]
fn a_damaged_checkpoint_is_passed_over_with_a_warning_for_the_one_before() {
    let straight = finished();
    let job = finished();
    for (file, damage) in DAMAGE {
        damage(&job.checkpoint(6).join(file));
        let run = job.run().success();
        let warning = run.stderr.lines().find(|line| line.contains("warning:")).expect("a warning");
        assert!(warning.contains("step-000006"), "{warning}");
        assert!(run.stderr.contains(&format!("resuming from {}", job.checkpoint(4).display())), "{}", run.stderr);
        assert_same_result(&straight, &job, 6);
    }
}

#[test]
fn a_damaged_checkpoint_that_was_asked_for_is_an_error_that_names_the_file() {
    for (file, damage) in DAMAGE {
        let job = finished();
        let before = job.final_weights();
        damage(&job.checkpoint(6).join(file));
        let asked = format!("checkpoint.resume={}", job.checkpoint(6).display());
        let error = job.run_with(&["--set", &asked]).failure(7);
        assert!(error.contains(&job.checkpoint(6).join(file).display().to_string()), "{error}");
        assert!(job.final_weights() == before);
    }
}

#[test]
fn a_run_whose_checkpoints_are_all_damaged_is_not_begun_anew() {
    let job = finished();
    let metrics = fs::read(job.output().join("metrics.jsonl")).expect("metrics");
    for update in [2, 4, 6] {
        flip_a_bit(&job.checkpoint(update).join("model.safetensors"));
    }
    let error = job.run().failure(7);
    assert!(error.contains("none of the 3 checkpoints can be resumed from"), "{error}");
    assert!(fs::read(job.output().join("metrics.jsonl")).expect("metrics") == metrics, "the old metrics are gone");
}

#[test]
fn the_metrics_file_is_cut_back_to_the_checkpoint() {
    let job = finished();
    let before = job.unmeasured();
    fs::remove_dir_all(job.checkpoint(6)).expect("the last checkpoint");
    // What a kill leaves: lines beyond the checkpoint, the last of them torn.
    let path = job.output().join("metrics.jsonl");
    let text = fs::read_to_string(&path).expect("metrics");
    fs::write(&path, text + "{\"step\":7,\"lo").expect("a torn line");
    job.run().success();
    assert_eq!(job.unmeasured(), before);
}
