//! Engines that others wrote move the gradients, chosen by configuration alone: MLX's ring, and what they promise.

use std::process::Command;
use std::time::{Duration, Instant};

use mdt_tests::{Job, Process, Run, assert_says, free_ports};

use super::faults::{long_job, process_of, signal};
use super::{error_of, job, launch, run};

/// The command that starts a job with this many ranks over MLX's ring.
fn ring(job: &Job, ranks: u16, more: &[&str]) -> Command {
    let mut command = launch(job, ranks.into());
    command.args(["--set", "comm.use=mlx", "--set", &format!("comm.port={}", free_ports(ranks))]).args(more);
    command
}

fn run_ring(job: &Job, ranks: u16, more: &[&str]) -> Run {
    Process::start(&mut ring(job, ranks, more)).end().success()
}

#[test]
fn two_ranks_over_mlx_end_after_50_updates_with_the_bits_of_grpc() {
    // An element is a sum of two, whose order does not matter.
    let [grpc, mlx] = [job(1), job(1)];
    run(&grpc, 2).success();
    run_ring(&mlx, 2, &[]);
    assert_eq!(grpc.unmeasured(), mlx.unmeasured());
    assert!(grpc.final_weights() == mlx.final_weights(), "the final model");
}

#[test]
fn three_ranks_over_mlx_follow_grpc_within_rounding_or_to_the_bit_with_exact() {
    let short = || job(1).set("trainer.max_steps", 20);
    let [grpc, mlx, exact] = [short(), short(), short()];
    run(&grpc, 3).success();
    run_ring(&mlx, 3, &[]);
    run_ring(&exact, 3, &["--set", "comm.exact=true"]);
    for key in ["tokens", "supervised_tokens", "lr", "epoch"] {
        assert_eq!(grpc.numbers(key), mlx.numbers(key), "{key}");
    }
    for (a, b) in grpc.numbers("loss").iter().zip(mlx.numbers("loss")) {
        assert!((a - b).abs() < 1e-5 * a.abs(), "{a} {b}");
    }
    assert_eq!(grpc.unmeasured(), exact.unmeasured());
    assert!(grpc.final_weights() == exact.final_weights(), "the final model");
}

#[test]
fn a_rank_over_mlx_that_is_killed_ends_the_other_with_status_5_and_the_job_resumes_to_the_same_bits() {
    let straight = job(2);
    straight.run().success();
    let job = job(1).set("checkpoint.save_steps", 5);
    let mut launcher = Process::start(&mut ring(&job, 2, &[]));
    launcher.wait_until(|| job.lines_so_far() >= 12);
    signal(process_of(&launcher, 1), "KILL");
    let killed = Instant::now();
    let ended = launcher.end();
    assert!(killed.elapsed() < Duration::from_secs(20), "it took {:?}", killed.elapsed());
    assert_eq!(ended.status, Some(5), "{}", ended.stderr);
    assert_says(&error_of(&ended, 0), &["rank 1 was lost", "connection to a peer was lost"]);
    assert_says(&run_ring(&job, 2, &[]).stderr, &["resuming from"]);
    assert_eq!(straight.unmeasured(), job.unmeasured());
    assert!(straight.final_weights() == job.final_weights(), "the final model");
}

#[test]
fn a_rank_over_mlx_that_is_stopped_is_noticed_by_the_host_which_says_that_mlx_cannot_name_it() {
    let job = long_job();
    let mut launcher = Process::start(&mut ring(&job, 2, &["--set", "comm.timeout_s=1"]));
    launcher.wait_until(|| job.lines_so_far() >= 12);
    signal(process_of(&launcher, 1), "STOP");
    let ended = launcher.end();
    assert_eq!(ended.status, Some(5), "{}", ended.stderr);
    assert_says(&error_of(&ended, 0), &["made no progress for 11 s", "comm mlx"]);
}
