//! Ranks that prepare their items for long are alive, and one that is killed meanwhile is named.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mdt_tests::{Job, Process, assert_says};

use super::faults::{process_of, signal};
use super::{error_of, job, last_error, launch, run};

/// A job whose ranks are given up after half a second without progress; and the file of the one that prepares for so long.
fn slow(seconds: f64) -> (Job, PathBuf) {
    let job = job(1).set("trainer.use", "slow_to_prepare").set("trainer.max_steps", 4).set("comm.timeout_s", 0.5);
    let marker = job.directory().join("prepares");
    let job = job.set("trainer.seconds", seconds).set("trainer.by_creating", marker.display());
    (job, marker)
}

#[test]
fn ranks_wait_for_one_that_prepares_longer_than_their_timeout() {
    let plain = job(2).set("trainer.max_steps", 4);
    plain.run().success();
    let (job, marker) = slow(4.0);
    let begin = Instant::now();
    run(&job, 2).success();
    assert!(marker.exists() && begin.elapsed() > Duration::from_secs(4));
    assert!(plain.final_weights() == job.final_weights(), "the final model");
}

#[test]
fn a_rank_that_the_others_always_wait_for_is_named() {
    let (job, marker) = slow(0.2);
    // Both ranks have rows in every update: one without any would not be behind in it.
    let job = job.rows(0..28).set("trainer.every_time", true).set("trainer.max_steps", 14);
    let mut launcher = Process::start(&mut launch(&job, 2));
    launcher.wait_until(|| fs::read_to_string(&marker).is_ok_and(|creator| !creator.is_empty()));
    let processes = [0, 1].map(|rank| process_of(&launcher, rank).to_string());
    let ended = launcher.end().success();
    let creator = fs::read_to_string(marker).expect("a rank prepares");
    let slow = processes.iter().position(|process| *process == creator).expect("one of the ranks");
    let notes: Vec<_> = ended.stderr.lines().filter(|line| line.contains("the other ranks wait for")).collect();
    assert_eq!(notes.len(), 1, "{}", ended.stderr);
    assert_says(notes[0], &[&format!("wait for rank {slow}: its own part of the last 10 updates took 0.")]);
}

#[test]
fn a_rank_that_is_killed_while_it_prepares_is_named() {
    let (job, marker) = slow(60.0);
    let mut launcher = Process::start(&mut launch(&job, 2));
    let number = || fs::read_to_string(&marker).ok().and_then(|text| text.parse::<u32>().ok());
    launcher.wait_until(|| number().is_some());
    let prepares = number().expect("a rank prepares");
    let victim = (0..2).find(|&rank| process_of(&launcher, rank) == prepares).expect("one of the ranks");
    // Longer than the timeout, so that the other rank has waited for it.
    std::thread::sleep(Duration::from_secs(1));
    signal(prepares, "KILL");
    let killed = Instant::now();
    let ended = launcher.end();
    assert!(killed.elapsed() < Duration::from_secs(3), "it took {:?}", killed.elapsed());
    assert_eq!(ended.status, Some(5), "{}", ended.stderr);
    assert_says(&error_of(&ended, 1 - victim), &[&format!("rank {victim}")]);
    assert_says(&last_error(&ended), &[&format!("rank {victim} was killed by SIGKILL")]);
}
