//! `launch --max-restarts`: a job goes on by itself after a rank was lost, to the bits of a run without a loss.

use std::time::Duration;

use mdt_tests::{Job, Process, assert_says};

use super::faults::{long_job, process_of, signal};
use super::{job, launch};

fn launch_again(job: &Job, restarts: u32) -> std::process::Command {
    let mut command = launch(job, 2);
    command.args(["--max-restarts", &restarts.to_string()]);
    command
}

#[test]
fn a_job_whose_ranks_are_killed_twice_ends_with_the_bits_of_an_undisturbed_one() {
    let steps = |job: Job| job.set("trainer.max_steps", 200);
    let straight = steps(job(2));
    straight.run().success();
    // A user may have asked for a new run: what this job has saved since is gone on from all the same.
    for resume in ["auto", "never"] {
        let job = steps(job(1)).set("checkpoint.save_steps", 5).set("checkpoint.resume", resume);
        let mut launcher = Process::start(&mut launch_again(&job, 2));
        launcher.wait_until(|| job.lines_so_far() >= 12);
        signal(process_of(&launcher, 1), "KILL");
        launcher.wait_for("restart  1 of 2");
        launcher.wait_for("resuming from");
        launcher.wait_until(|| job.lines_so_far() >= 60);
        signal(process_of(&launcher, 0), "KILL");
        let ended = launcher.end().success();
        assert_says(&ended.stderr, &["restart  1 of 2 in 1 s: rank 1 was killed by SIGKILL"]);
        assert_says(&ended.stderr, &["restart  2 of 2 in 1 s: rank 0 was killed by SIGKILL"]);
        assert_says(&ended.stderr, &["goes on from the checkpoint of update"]);
        assert_eq!(straight.unmeasured(), job.unmeasured());
        assert!(straight.final_weights() == job.final_weights(), "the final model");
        assert!(!job.output().join("earlier-1").exists());
    }
}

#[test]
fn what_a_new_start_cannot_cure_ends_the_job_at_once() {
    let job = job(1);
    let broken = job.file("broken.jsonl", "{nonsense}\n");
    let ended = Process::start(&mut launch_again(&job.set("data.train", broken.display()), 3)).end();
    assert_eq!(ended.status, Some(4), "{}", ended.stderr);
    assert!(!ended.stderr.contains("restart "), "{}", ended.stderr);
}

#[test]
fn restarts_have_an_end_and_a_signal_ends_the_wait_for_one() {
    let job = long_job();
    let mut launcher = Process::start(&mut launch_again(&job, 1));
    launcher.wait_until(|| job.lines_so_far() >= 7);
    signal(process_of(&launcher, 1), "KILL");
    launcher.wait_for("resuming from");
    launcher.wait_until(|| job.lines_so_far() >= 30);
    signal(process_of(&launcher, 1), "KILL");
    let ended = launcher.end();
    assert_eq!(ended.status, Some(5), "{}", ended.stderr);
    assert_says(&ended.stderr, &["rank 1 was killed by SIGKILL", "the job was started again 1 time before"]);

    let mut launcher = Process::start(&mut launch_again(&job, 9));
    launcher.wait_for("resuming from");
    launcher.wait_until(|| job.lines_so_far() >= 40);
    signal(process_of(&launcher, 0), "KILL");
    launcher.wait_for("restart  1 of 9");
    std::thread::sleep(Duration::from_millis(100));
    launcher.signal("INT");
    let ended = launcher.end();
    assert_eq!(ended.status, Some(5), "{}", ended.stderr);
    assert_says(&ended.stderr, &["not started again, as a signal"]);
}
