//! The optimizer's states divided among ranks: the files and bits of a run in which every rank has all of them.

use mdt_tests::{Job, assert_says, root};

use super::equality::{arrays, assert_same_course};
use super::{error_of, job, run, wide};

const UPDATES: u64 = 8;

fn sharded(job: Job) -> Job {
    job.set("comm.shard_optimizer", true)
}

/// A job of one process and the same of ranks with their own states end with the same numbers, weights and states.
#[track_caller]
fn assert_same(of: impl Fn(u32) -> Job, ranks: u32, updates: u64) {
    let (one, many) = (of(ranks), sharded(of(1)));
    one.run().success();
    run(&many, ranks).success();
    assert_same_course(&one, &many);
    assert!(arrays(&one, updates) == arrays(&many, updates), "weights and optimizer states");
    assert!(one.final_weights() == many.final_weights(), "the final model");
}

fn with(optimizer: &str, micro_batches: u32) -> Job {
    job(micro_batches)
        .set("optimizer", optimizer)
        .set("optimizer.learning_rate", 1e-2)
        .set("trainer.max_steps", UPDATES)
}

#[test]
fn ranks_with_their_own_states_have_the_bits_and_files_of_one_process_after_50_updates() {
    for ranks in [2, 3, 4] {
        assert_same(job, ranks, 50);
    }
}

#[test]
fn parameters_that_are_cut_between_ranks_have_the_same_bits() {
    // So large that states come to the first rank in several rounds.
    let of = |micro_batches| wide(job(micro_batches), 12_000).set("trainer.max_steps", 2).set("comm.bucket_mb", 1);
    assert_same(of, 2, 2);
}

#[test]
fn momentum_factored_half_and_block_states_are_divided_too() {
    for optimizer in ["sgd", "factored", "half", "blocks"] {
        let of = |micro_batches| {
            let job = with(optimizer, micro_batches).set("trainer.max_grad_norm", 0.05);
            if optimizer == "sgd" { job.set("optimizer.momentum", 0.9) } else { job }
        };
        assert_same(of, 2, UPDATES);
    }
}

#[test]
fn weights_for_evaluation_are_put_together_from_all_ranks() {
    let held_out = root().join("tests/fixtures/training/train.jsonl");
    for export in ["last", "best"] {
        let of = |micro_batches| {
            let job = with("average", micro_batches).set("data.eval", held_out.display()).set("trainer.eval_steps", 2);
            // So large that the loss rises in the end, and the best weights are earlier ones.
            job.set("optimizer.learning_rate", 2.0).set("checkpoint.export", export)
        };
        assert_same(of, 2, UPDATES);
    }
}

#[test]
fn an_optimizer_that_keeps_its_states_on_the_device_is_refused() {
    let ended = run(&sharded(with("device", 1)), 2);
    assert_eq!(ended.status, Some(2), "{}", ended.stderr);
    assert_says(
        &error_of(&ended, 0),
        &["comm.shard_optimizer", "optimizer device", "on the device", "comm.shard_optimizer=false"],
    );
}

#[test]
fn the_memory_of_states_is_counted_once_over_all_ranks() {
    let states = |sharded: bool| {
        let job = wide(job(1), 20_000).set("trainer.max_steps", 1).set("comm.shard_optimizer", sharded);
        let run = run(&job, 2).success();
        let line = run.stderr.lines().find(|line| line.contains("memory   about")).expect("the estimate").to_owned();
        let (_, rest) = line.split_once("states ").expect("states");
        rest.split([',', ';']).next().and_then(|number| number.parse::<f64>().ok()).expect("a number")
    };
    let (whole, part) = (states(false), states(true));
    assert!((part * 2.0 - whole).abs() <= 2.0, "{whole} and {part} MiB");
}
