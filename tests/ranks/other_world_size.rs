//! A job goes on with another number of ranks: to the same bits where an update has the same micro-batches, else refused.

use std::fs;

use mdt_tests::{Job, Process, Run, assert_says};

use super::equality::{arrays, assert_same_course};
use super::{error_of, job, launch};

const UPDATES: u64 = 9;

/// Updates of four micro-batches, from one file of rows that does not divide by them.
fn four_micro_batches() -> Job {
    job(4).set("trainer.max_steps", UPDATES).set("checkpoint.save_steps", 1).set("checkpoint.keep", 0)
}

/// Runs the job with so many ranks, each with so many micro-batches.
fn run_with(job: &Job, ranks: u32, accumulation: u32, more: &[&str]) -> Run {
    let mut command = launch(job, ranks);
    command.args(["--set", &format!("trainer.gradient_accumulation_steps={accumulation}")]);
    command.args(more.iter().flat_map(|set| ["--set", set]));
    Process::start(&mut command).end()
}

/// Takes a job back to the checkpoint of `update`.
fn rewind(job: &Job, update: u64) {
    for later in update + 1..=UPDATES {
        if job.checkpoint(later).exists() {
            fs::remove_dir_all(job.checkpoint(later)).expect("a checkpoint");
        }
    }
    fs::remove_dir_all(job.output().join("final")).expect("a final model");
}

#[test]
fn a_job_goes_from_one_rank_to_four_to_two_and_back_with_and_without_sharded_states() {
    let straight = four_micro_batches();
    straight.run().success();
    let moved = four_micro_batches();
    moved.run().success();
    let sharded: &[&str] = &["comm.shard_optimizer=true"];
    for (update, ranks, accumulation, more) in
        [(2, 4, 1, sharded), (4, 2, 2, &[]), (6, 2, 2, sharded), (7, 1, 4, &[]), (8, 4, 1, &["comm.overlap=false"])]
    {
        rewind(&moved, update);
        let ended = run_with(&moved, ranks, accumulation, more).success();
        assert!(ended.stderr.contains("resuming from"), "{}", ended.stderr);
        assert_same_course(&straight, &moved);
        assert!(arrays(&straight, UPDATES) == arrays(&moved, UPDATES), "{ranks} ranks from update {update}");
        assert!(straight.final_weights() == moved.final_weights());
    }
}

#[test]
fn rows_that_stream_are_neither_lost_nor_repeated_by_another_number_of_ranks() {
    let streaming = || four_micro_batches().set("data.streaming", true).set("data.shuffle_buffer", 8);
    let (straight, moved) = (streaming(), streaming());
    straight.run().success();
    moved.run().success();
    for (update, ranks, accumulation) in [(3, 2, 2), (5, 4, 1)] {
        rewind(&moved, update);
        run_with(&moved, ranks, accumulation, &[]).success();
        assert_same_course(&straight, &moved);
        assert!(straight.final_weights() == moved.final_weights());
    }
}

#[test]
fn another_global_batch_and_sums_that_round_otherwise_are_refused_with_the_reason() {
    let job = four_micro_batches();
    job.run().success();
    rewind(&job, 2);
    let refused = |ranks, accumulation, more: &[&str]| {
        let ended = run_with(&job, ranks, accumulation, more);
        assert_eq!(ended.status, Some(2), "{}", ended.stderr);
        error_of(&ended, 0)
    };
    assert_says(&refused(2, 4, &[]), &["comm.", "an update had 4 micro-batches (1 rank with 4 each) and would have 8"]);
    assert_says(&refused(2, 2, &["comm.gradient_dtype=bfloat16"]), &["comm.gradient_dtype", "as bfloat16"]);
    assert_says(&refused(2, 2, &["trainer.batch_size=4"]), &["`trainer.batch_size` has changed"]);
}

#[test]
fn a_job_goes_on_over_another_backend() {
    let job = four_micro_batches();
    run_with(&job, 2, 2, &[]).success();
    let weights = job.final_weights();
    rewind(&job, 4);
    let directory = format!("comm.directory={}", job.directory().join("shared").display());
    let ended = run_with(&job, 4, 1, &["comm.use=files", &directory]).success();
    assert!(ended.stderr.contains("resuming from"), "{}", ended.stderr);
    assert!(job.final_weights() == weights, "the final model");
}
