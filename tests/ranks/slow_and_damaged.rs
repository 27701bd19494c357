//! Ranks on networks that are slow or damage data.

use mdt_tests::{Job, Network, Process, Relay, Run, free_port};

use super::{job, start_rank};

/// Runs a job on two ranks, of which rank 1 reaches rank 0 through a relay.
fn run_through(network: Network, job: &Job) -> [Run; 2] {
    let port = free_port();
    let relay = Relay::start(port, network);
    [start_rank(job, 0, port), start_rank(job, 1, relay.port)].map(Process::end)
}

/// A job of three updates, each of which moves 180 KB in each direction.
fn short_job(micro_batches: u32) -> Job {
    job(micro_batches).set("trainer.max_steps", 3).set("checkpoint.save_steps", 0)
}

#[test]
fn transfers_that_take_longer_than_the_timeout_train_to_the_same_bits() {
    let straight = short_job(2);
    straight.run().success();
    let slow = short_job(1).set("comm.shared_memory", "off").set("comm.timeout_s", 0.6);
    let network = Network { bytes_per_second: Some(150 << 10), ..Network::default() };
    run_through(network, &slow).into_iter().for_each(|run| drop(run.success()));
    assert!(straight.final_weights() == slow.final_weights(), "the final model");
}

#[test]
fn a_bit_that_is_flipped_between_ranks_is_an_error_or_leaves_the_model_as_it_is() {
    let straight = short_job(2);
    straight.run().success();
    let mut errors = 0;
    for damaged_byte in [20_011, 77_777, 150_001, 250_007, 350_003, 470_017] {
        let damaged = short_job(1).set("comm.shared_memory", "off").set("comm.timeout_s", 2);
        let runs = run_through(Network { damaged_byte: Some(damaged_byte), ..Network::default() }, &damaged);
        match runs[0].status {
            Some(0) => {
                assert!(straight.final_weights() == damaged.final_weights(), "byte {damaged_byte}: another model")
            }
            status => {
                assert_eq!(status, Some(5), "{}", runs[0].stderr);
                assert!(runs[0].stderr.contains("rank 1"), "{}", runs[0].stderr);
                errors += 1;
            }
        }
    }
    assert!(errors >= 3, "most bytes are gradients");
}
