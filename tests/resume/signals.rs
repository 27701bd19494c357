//! SIGINT and SIGTERM: a checkpoint, a message, and the same result once the job is run again.

use std::fs::File;
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread::spawn;
use std::time::Duration;

use mdt_tests::{Job, Run};

use super::{assert_same_result, job};

const UPDATES: u64 = 150;

/// Saves on the signal and at the end only.
fn long_job() -> Job {
    job(UPDATES).set("checkpoint.save_steps", 0)
}

/// Signals the run once it has written so many lines of metrics. A run that ends before the signal comes to it is run
/// again from its beginning.
fn interrupted(signal: &str, lines: usize) -> (Job, Run) {
    for _ in 0..10 {
        let job = long_job();
        let mut process = job.start();
        process.wait_until(|| job.lines_so_far() >= lines);
        process.signal(signal);
        let run = process.end();
        if run.status != Some(0) {
            return (job, run);
        }
    }
    panic!("the signal always came too late");
}

#[test]
fn a_job_stopped_by_a_signal_saves_says_so_and_ends_as_if_it_had_not_been() {
    let straight = long_job();
    straight.run().success();
    for (signal, lines) in [("INT", 3), ("TERM", 20), ("INT", 50)] {
        let (job, run) = interrupted(signal, lines);
        let done = job.lines_so_far();
        assert!((lines..UPDATES as usize).contains(&done), "{done} updates");
        let error = run.failure(130);
        assert!(error.contains(&format!("interrupted after update {done}")), "{error}");
        assert!(error.contains(&job.checkpoint(done as u64).display().to_string()), "{error}");
        assert!(error.contains("run the same command again"), "{error}");
        assert!(job.checkpoint(done as u64).join("manifest.json").exists() && !job.output().join("final").exists());
        let resumed = job.run().success();
        let said = format!("resuming from {}", job.checkpoint(done as u64).display());
        assert!(resumed.stderr.contains(&said), "{}", resumed.stderr);
        assert_same_result(&straight, &job, UPDATES);
    }
}

#[test]
fn a_job_stopped_again_and_again_ends_as_if_it_had_not_been() {
    let straight = long_job();
    straight.run().success();
    let job = long_job();
    let mut stops = 0;
    loop {
        let mut process = job.start();
        let before = job.lines_so_far();
        process.wait_until(|| job.lines_so_far() > before);
        process.signal("INT");
        let run = process.end();
        if run.status == Some(0) {
            break;
        }
        run.failure(130);
        stops += 1;
        if stops == 3 {
            job.run().success();
            break;
        }
    }
    assert!(stops > 0);
    assert_same_result(&straight, &job, UPDATES);
}

#[test]
fn the_second_signal_ends_the_program_at_once() {
    let job = job(4);
    // This pipe stays open, so the program waits for the end of its configuration for as long as it lives.
    let pipe = job.directory().join("pipe.toml");
    assert!(Command::new("mkfifo").arg(&pipe).status().is_ok_and(|status| status.success()));
    let job = job.argument("--config").argument(pipe.display().to_string());
    let mut process = job.start();
    // Opening ends when the program has opened it, too.
    let (opened, opens) = channel();
    spawn(move || opened.send(File::options().write(true).open(pipe)));
    let pipe = opens.recv_timeout(Duration::from_secs(30)).expect("the program reads the file").expect("a pipe");
    process.signal("INT");
    std::thread::sleep(Duration::from_millis(100));
    assert!(process.runs(), "the first signal asks for an end at the next update: {}", process.end().stderr);
    process.signal("INT");
    assert_eq!(process.end().status, Some(130));
    drop(pipe);
}
