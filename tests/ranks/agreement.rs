//! Ranks that do not run the same job never train together.

use mdt_tests::{Job, Process, Run, assert_says, free_port};

use super::{job, start_rank};

/// Runs rank 0 of one job and rank 1 of another, which meet at the same port.
fn meet(first: &Job, second: &Job) -> [Run; 2] {
    let port = free_port();
    let ranks = [start_rank(first, 0, port), start_rank(second, 1, port)];
    ranks.map(Process::end)
}

#[test]
fn another_configuration_is_an_error_on_both_ranks_that_names_the_key_and_both_values() {
    let runs = meet(&job(1), &job(1).set("optimizer.learning_rate", 0.25));
    for run in runs {
        assert_says(&run.failure(2), &["optimizer.learning_rate", "0.25", "0.001"]);
    }
}

#[test]
fn other_data_is_an_error_on_both_ranks() {
    let runs = meet(&job(1), &job(1).rows(1..31));
    for run in runs {
        assert_says(&run.failure(4), &["rank 1 differs from rank 0", "training data"]);
    }
}

#[test]
fn keys_that_change_no_result_may_differ() {
    let (first, second) = (job(1).set("trainer.max_steps", 3), job(1).set("trainer.max_steps", 3));
    let [first_run, second_run] = meet(&first, &second);
    first_run.success();
    second_run.success();
    assert!(first.output().join("final/model.safetensors").exists());
    assert!(!second.output().exists(), "only the first rank writes");
}

#[test]
fn a_rank_that_does_not_see_the_checkpoint_gets_it_from_the_first() {
    let straight = job(2).set("trainer.max_steps", 12);
    straight.run().success();
    let first = job(1).set("trainer.max_steps", 12).set("checkpoint.save_steps", 5);
    let second = job(1).set("trainer.max_steps", 12).set("checkpoint.save_steps", 5);
    let [first_run, second_run] = meet(&first, &second);
    first_run.success();
    second_run.success();
    // As if the job had stopped after the checkpoint of update 10.
    std::fs::remove_dir_all(first.checkpoint(12)).expect("the last checkpoint");
    std::fs::remove_dir_all(first.output().join("final")).expect("the final model");
    let [first_run, second_run] = meet(&first, &second);
    assert_says(&first_run.success().stderr, &["resuming from"]);
    second_run.success();
    assert_eq!(straight.unmeasured(), first.unmeasured());
    assert!(straight.final_weights() == first.final_weights(), "the final model");
}
