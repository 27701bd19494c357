//! Ranks that Open MPI's `mpirun` has started meet over grpc.

use mdt_tests::{Process, assert_says};

use super::{installed, job, under};

/// Two processes on one machine, also by root and with fewer cores.
const TWO: [&str; 5] = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2"];

#[test]
fn mpirun_starts_ranks_that_train_to_the_bits_of_launch_with_a_token_of_its_own() {
    if !installed("mpirun") {
        return;
    }
    let alone = job(2);
    alone.run().success();
    let job = job(1);
    let ended = Process::start(&mut under(&TWO, &job)).end();
    assert_eq!(ended.status, Some(0), "{}", ended.stderr);
    assert_says(&ended.stderr, &["started  by Open MPI as rank 0 of 2 (job mpi-", "rank 1 of 2, started by Open MPI"]);
    assert_eq!(alone.unmeasured(), job.unmeasured());
    assert!(alone.final_weights() == job.final_weights(), "the final model");
}
