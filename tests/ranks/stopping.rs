//! Signals to `launch` and to its ranks: no update is lost, the right rank is blamed, and no process stays behind.

use std::thread::sleep;
use std::time::{Duration, Instant};

use mdt_tests::{Job, Process, assert_says};

use super::faults::{long_job, process_of, signal};
use super::{error_of, job, last_error, launch, run};

/// A job that saves only when it is stopped.
fn unsaved_job() -> Job {
    job(1).set("trainer.max_steps", 300).set("checkpoint.save_steps", 0)
}

/// Runs a job again that was stopped, and checks that it ends as if it had not been.
fn assert_resumes(straight: &Job, job: &Job) {
    assert_says(&run(job, 2).success().stderr, &["resuming from"]);
    assert_eq!(straight.unmeasured(), job.unmeasured());
    assert!(straight.final_weights() == job.final_weights(), "the final model");
}

/// Whether a process has not ended. One that has may still wait to be reaped by the system.
#[cfg(target_os = "linux")]
fn runs(id: u32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    state.rsplit(')').next().is_some_and(|rest| rest.trim().starts_with(['R', 'S', 'D', 'T']))
}

#[test]
fn an_interrupted_job_stops_on_all_ranks_with_one_checkpoint_and_resumes_to_the_same_bits() {
    let straight = job(2).set("trainer.max_steps", 300);
    straight.run().success();
    let job = unsaved_job();
    let mut launcher = Process::start(&mut launch(&job, 2));
    launcher.wait_until(|| job.lines_so_far() >= 5);
    // Ctrl-C twice in a hurry is one request.
    launcher.signal("INT");
    sleep(Duration::from_millis(11));
    launcher.signal("INT");
    let ended = launcher.end();
    assert_eq!(ended.status, Some(130), "{}", ended.stderr);
    let done = job.lines_so_far();
    assert!(done < 300, "{done} updates");
    assert!(job.checkpoint(done as u64).join("manifest.json").exists());
    for rank in 0..2 {
        assert_says(&error_of(&ended, rank), &[&format!("interrupted after update {done}")]);
    }
    assert_resumes(&straight, &job);
}

#[test]
fn a_stop_that_reaches_one_rank_alone_stops_all_of_them() {
    let job = long_job();
    let mut launcher = Process::start(&mut launch(&job, 2));
    launcher.wait_until(|| job.lines_so_far() >= 3);
    signal(process_of(&launcher, 1), "TERM");
    let ended = launcher.end();
    assert_eq!(ended.status, Some(130), "{}", ended.stderr);
    assert!(job.checkpoint(job.lines_so_far() as u64).join("manifest.json").exists());
}

#[test]
fn a_second_interrupt_a_second_later_ends_all_ranks_at_once() {
    let job = unsaved_job();
    let mut launcher = Process::start(&mut launch(&job, 2));
    launcher.wait_until(|| job.lines_so_far() >= 3);
    signal(process_of(&launcher, 1), "STOP"); // so that no rank can stop after its update
    launcher.signal("INT");
    sleep(Duration::from_millis(1100));
    assert!(launcher.runs());
    launcher.signal("INT");
    let begin = Instant::now();
    let ended = launcher.end();
    assert!(begin.elapsed() < Duration::from_secs(1), "it took {:?}", begin.elapsed());
    assert_eq!(ended.status, Some(1), "{}", ended.stderr);
    assert_says(&last_error(&ended), &["stopped at once by a second signal"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_job_whose_launcher_is_killed_or_hung_up_saves_and_resumes_to_the_same_bits() {
    let straight = job(2).set("trainer.max_steps", 300);
    straight.run().success();
    for name in ["KILL", "KILL", "HUP"] {
        let job = unsaved_job();
        let mut launcher = Process::start(&mut launch(&job, 2));
        launcher.wait_until(|| job.lines_so_far() >= 5);
        let ranks = [process_of(&launcher, 0), process_of(&launcher, 1)];
        launcher.signal(name);
        let ended = launcher.end();
        assert_eq!(ended.status, (name == "HUP").then_some(130), "{}", ended.stderr);
        let begin = Instant::now();
        while ranks.into_iter().any(runs) {
            assert!(begin.elapsed() < Duration::from_secs(20), "a rank still runs");
            sleep(Duration::from_millis(20));
        }
        let done = job.lines_so_far();
        assert!(job.checkpoint(done as u64).join("manifest.json").exists(), "{name}: update {done} is lost");
        assert_resumes(&straight, &job);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_stopped_rank_does_not_stay_behind_its_killed_launcher() {
    let job = long_job();
    let mut launcher = Process::start(&mut launch(&job, 2));
    launcher.wait_until(|| job.lines_so_far() >= 3);
    let ranks = [process_of(&launcher, 0), process_of(&launcher, 1)];
    signal(ranks[1], "STOP");
    launcher.kill();
    drop(launcher);
    let begin = Instant::now();
    while ranks.into_iter().any(runs) && begin.elapsed() < Duration::from_secs(20) {
        sleep(Duration::from_millis(20));
    }
    let left: Vec<u32> = ranks.into_iter().filter(|&rank| runs(rank)).collect();
    left.iter().for_each(|&rank| signal(rank, "KILL"));
    assert!(left.is_empty(), "{} of 2 ranks stay behind", left.len());
}

#[test]
fn a_stopped_rank_is_named_by_the_other_and_by_launch_within_seconds() {
    let job = long_job();
    let mut launcher = Process::start(&mut launch(&job, 2));
    launcher.wait_until(|| job.lines_so_far() >= 3);
    signal(process_of(&launcher, 1), "STOP");
    let begin = Instant::now();
    let ended = launcher.end();
    assert!(begin.elapsed() < Duration::from_secs(8), "it took {:?}", begin.elapsed());
    assert_eq!(ended.status, Some(5), "{}", ended.stderr);
    assert_says(&error_of(&ended, 0), &["rank 1"]);
    assert_says(&last_error(&ended), &["rank 1 was stopped", "resume"]);
}
