//! A run that was stopped, in whatever way, ends with the bits of one that was not.

mod changes;
mod damage;
mod kills;
mod refusals;
mod signals;
mod used_directory;
mod versions;

use std::path::Path;

use mdt_tests::{Job, arrays};

/// Six updates per epoch, of which the last has two rows for four; every epoch has its own order.
fn job(updates: u64) -> Job {
    Job::new()
        .rows(0..22)
        .set("data.shuffle", true)
        .set("trainer.batch_size", 2)
        .set("trainer.gradient_accumulation_steps", 2)
        .set("trainer.max_steps", updates)
        .set("checkpoint.save_steps", 1)
        .set("checkpoint.keep", 0)
}

/// The same weights, optimizer's state and metrics, bit by bit. The metrics have the rates, and with losses and counts
/// of tokens the rows of each update.
#[track_caller]
fn assert_same_result(a: &Job, b: &Job, updates: u64) {
    assert!(a.final_weights() == b.final_weights(), "the final weights differ");
    for file in ["model.safetensors", "optimizer.safetensors"] {
        let bytes =
            |job: &Job| std::fs::read(job.checkpoint(updates).join(file)).expect("a checkpoint of the last update");
        assert!(bytes(a) == bytes(b), "{file} of the last checkpoint differs");
    }
    assert_eq!(a.unmeasured(), b.unmeasured());
    assert_eq!(a.updates().len() as u64, updates);
}

/// Takes a finished job back to the state in which its last checkpoint was that of `update`.
fn rewind(job: &Job, update: u64, updates: u64) {
    (update + 1..=updates).for_each(|later| std::fs::remove_dir_all(job.checkpoint(later)).expect("a checkpoint"));
    std::fs::remove_dir_all(job.output().join("final")).expect("a final model");
}

#[test]
fn two_runs_of_one_job_are_bit_identical() {
    for init in ["pretrained", "random"] {
        let jobs = [job(8), job(8)].map(|job| job.set("model.init", init));
        jobs.iter().for_each(|job| drop(job.run().success()));
        assert_same_result(&jobs[0], &jobs[1], 8);
    }
}

#[test]
fn ten_updates_are_any_of_them_a_stop_and_the_rest() {
    let straight = job(10);
    straight.run().success();
    let stopped = job(10);
    stopped.run().success();
    // In the first epoch, at its end, in the second.
    for update in [1, 5, 6, 9] {
        rewind(&stopped, update, 10);
        let run = stopped.run().success();
        let said = format!("resuming from {}", stopped.checkpoint(update).display());
        assert!(run.stderr.contains(&said), "{}", run.stderr);
        assert_same_result(&straight, &stopped, 10);
    }
}

#[test]
fn the_moments_are_part_of_what_is_resumed() {
    let job = job(4);
    job.run().success();
    let moments = arrays(&job.checkpoint(4).join("optimizer.safetensors"));
    let weights = arrays(&job.checkpoint(4).join("model.safetensors"));
    assert_eq!(moments.len(), 2 * weights.len());
    for (name, moment) in moments {
        assert!(moment.iter().any(|&value| value != 0.0), "{name} is zero");
    }
}

#[test]
fn a_checkpoint_of_another_directory_can_be_resumed_from_by_its_path() {
    let straight = job(10);
    straight.run().success();
    let rows = straight.directory().join("train.jsonl");
    let other = job(10).set("data.train", rows.display()).set("checkpoint.resume", straight.checkpoint(7).display());
    other.run().success();
    assert!(straight.final_weights() == other.final_weights());
    assert_eq!(other.unmeasured(), straight.unmeasured()[7..]);
}

#[test]
fn a_finished_job_run_again_ends_well_and_changes_nothing() {
    let job = job(4);
    job.run().success();
    let before = mdt_tests::tree(&job.output());
    let run = job.run().success();
    assert!(run.stderr.contains("all 4 updates are done already"), "{}", run.stderr);
    let after = mdt_tests::tree(&job.output());
    let names = |tree: &std::collections::BTreeMap<_, _>| tree.keys().cloned().collect::<Vec<std::path::PathBuf>>();
    assert_eq!(names(&before), names(&after));
    for (path, bytes) in &before {
        assert!(after[path] == *bytes, "{} has changed", path.display());
    }
}

#[test]
fn the_newest_checkpoints_are_kept_and_older_ones_deleted() {
    let job = job(10).set("checkpoint.save_steps", 3).set("checkpoint.keep", 2);
    job.run().success();
    let mut kept = names(&job.output().join("checkpoints"));
    kept.retain(|name| name.starts_with("step-"));
    assert_eq!(kept, ["step-000009", "step-000010"]);
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
