//! A rank that goes away is named within a second, nothing hangs, and the job goes on from its checkpoint.

use std::process::Command;
use std::time::{Duration, Instant};

use mdt_tests::{Job, Process, assert_says};

use super::{error_of, job, last_error, launch, run};

/// A job that runs until it is stopped, with a checkpoint every update.
pub(super) fn long_job() -> Job {
    job(1).set("trainer.max_steps", 5000).set("checkpoint.save_steps", 5)
}

/// The process of a rank: the child of the launching one whose arguments say so.
pub(super) fn process_of(launcher: &Process, rank: u32) -> u32 {
    let output = Command::new("ps").args(["-A", "-ww", "-o", "pid=,ppid=,command="]).output().expect("the command ps");
    let (parent, key) = (launcher.id().to_string(), format!("comm.rank={rank}"));
    let of_rank = |line: &str| {
        let mut words = line.split_whitespace();
        let id = words.next()?.parse().ok()?;
        (words.next()? == parent && words.any(|word| word == key)).then_some(id)
    };
    String::from_utf8_lossy(&output.stdout).lines().find_map(of_rank).expect("the rank runs")
}

pub(super) fn signal(process: u32, name: &str) {
    let status = Command::new("kill").args(["-s", name, &process.to_string()]).status();
    assert!(status.expect("the command kill").success());
}

#[test]
fn a_killed_rank_is_named_by_the_survivor_and_by_launch_and_the_job_resumes_to_the_same_bits() {
    let straight = job(2);
    straight.run().success();
    for victim in [1, 0] {
        let job = job(1).set("checkpoint.save_steps", 5);
        let mut launcher = Process::start(&mut launch(&job, 2));
        launcher.wait_until(|| job.lines_so_far() >= 12);
        signal(process_of(&launcher, victim), "KILL");
        let killed = Instant::now();
        let ended = launcher.end();
        assert!(killed.elapsed() < Duration::from_secs(3), "it took {:?}", killed.elapsed());
        assert_eq!(ended.status, Some(5), "{}", ended.stderr);
        assert_says(&error_of(&ended, 1 - victim), &[&format!("rank {victim}")]);
        assert_says(&last_error(&ended), &[&format!("rank {victim} was killed by SIGKILL"), "resume"]);

        let resumed = run(&job, 2).success();
        assert_says(&resumed.stderr, &["resuming from"]);
        assert_eq!(straight.unmeasured(), job.unmeasured());
        assert!(straight.final_weights() == job.final_weights(), "the final model");
    }
}

#[test]
fn numbers_that_are_not_finite_on_one_rank_stop_all_ranks_before_the_update_and_name_its_rows() {
    // A rate that ruins the weights: the gradients of the next update are not finite.
    let job =
        job(1).set("optimizer.learning_rate", "1e30").set("scheduler", "constant").set("checkpoint.save_steps", 0);
    let ended = run(&job, 2);
    assert_eq!(ended.status, Some(6), "{}", ended.stderr);
    for rank in 0..2 {
        assert_says(&error_of(&ended, rank), &["not finite", "rank 0, ", "rank 1, ", "train.jsonl"]);
    }
    assert_says(&last_error(&ended), &["status 6"]);
}

#[test]
fn a_checkpoint_that_cannot_be_written_ends_all_ranks_with_the_status_and_reason_of_the_first() {
    let job = job(1).set("checkpoint.save_steps", 2);
    // Room for the weights, 180 KiB, and not for the optimizer's states.
    let limited = launch(&job, 2);
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; ulimit -f 400; exec \"$@\"", "sh"]).current_dir(mdt_tests::root());
    let ended = Process::start(shell.arg(limited.get_program()).args(limited.get_args())).end();
    assert_eq!(ended.status, Some(7), "{}", ended.stderr);
    assert_says(&error_of(&ended, 0), &["the checkpoint of update 2 cannot be written", "ulimit -f"]);
    assert_says(&error_of(&ended, 1), &["rank 0 aborted", "the checkpoint of update 2 cannot be written"]);
    assert_says(&last_error(&ended), &["rank 0 ended with status 7"]);
}

#[test]
fn a_rank_that_a_plugin_ends_with_status_0_is_a_failure_of_the_job() {
    for by in ["_exit", "exit"] {
        let job = job(1).set("optimizer", "ends_the_process").set("optimizer.by", by).set("checkpoint.save_steps", 1);
        let marker = job.directory().join("ended");
        let job = job.set("optimizer.only_by_creating", marker.display());
        let ended = run(&job, 2);
        assert_eq!(ended.status, Some(3), "{by}: {}", ended.stderr);
        let said = match by {
            "_exit" => "ended with status 0 before the job was done",
            _ => "ended with status 3",
        };
        assert_says(&last_error(&ended), &["rank ", said]);
        assert!(!job.output().join("final").exists(), "{by}");
    }
}

#[test]
fn a_rank_that_dies_before_it_has_joined_is_named_by_those_that_wait_for_it() {
    let job = job(1).set("optimizer", "ends_the_process").set("optimizer.by", "abort").set("optimizer.at_once", true);
    let marker = job.directory().join("ended");
    let ended = run(&job.set("optimizer.only_by_creating", marker.display()), 2);
    let dead = u32::from(!last_error(&ended).contains("rank 0 was killed by SIGABRT"));
    let killed = format!("rank {dead} was killed by SIGABRT");
    assert_says(&last_error(&ended), &[&killed]);
    assert_says(&error_of(&ended, 1 - dead), &[&format!("waiting for rank {dead}"), &killed]);
}
