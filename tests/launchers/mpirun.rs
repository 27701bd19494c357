//! Ranks that Open MPI's `mpirun` has started meet over grpc.

use mdt_tests::{Process, assert_says, command};
use serde_json::Value;

use super::{installed, job, under, with_environment};

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

#[test]
fn a_benchmark_of_collectives_measures_the_ranks_that_mpirun_has_started() {
    if !installed("mpirun") {
        return;
    }
    let bench = |more: &[&str]| {
        let mut mpirun = with_environment(std::process::Command::new(TWO[0]));
        mpirun.args(&TWO[1..4]).arg("3").arg(command().get_program());
        Process::start(mpirun.args(["bench", "all-reduce", "--bytes", "4096", "--times", "5", "--json"]).args(more))
            .end()
    };
    let figures: Value = serde_json::from_str(&bench(&[]).success().stdout).expect("one JSON object, of rank 0");
    assert_eq!((&figures["ranks"], &figures["backend"]), (&3.into(), &"grpc".into()));
    let refused = bench(&["-n", "2"]);
    assert_ne!(refused.status, Some(0));
    assert_says(&refused.stderr, &["Open MPI has started 3 ranks, and 2 are to be measured"]);
}
