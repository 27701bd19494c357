//! SIGKILL at any moment, those of a save included, leaves a checkpoint that the job goes on from.

use std::thread::sleep;
use std::time::Duration;

use mdt_tests::Job;

use super::{assert_same_result, job};

const UPDATES: u64 = 60;

/// Kills the run when it has made `lines` updates more, and a moment after that. Says whether it had to.
fn kill_after(job: &Job, lines: usize, moment: Duration) -> bool {
    // A resumed run cuts the lines back to its checkpoint, and at most one update was not in it.
    let until = job.lines_so_far() + lines;
    let mut process = job.start();
    process.wait_until(|| job.lines_so_far() >= until);
    sleep(moment);
    let killed = process.runs();
    process.kill();
    let run = process.end();
    assert!(run.status.is_none() || run.status == Some(0), "{}", run.stderr);
    killed && run.status.is_none()
}

/// Whether a checkpoint is being written, or was when the run was killed.
fn is_saving(job: &Job) -> bool {
    let entries = std::fs::read_dir(job.output().join("checkpoints")).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().ends_with(".tmp"))
}

/// The moments of a save that a kill is aimed at.
enum Moment {
    /// So long after its first file.
    AfterBeginning(Duration),
    /// As soon as the checkpoint has its name.
    Appearance,
}

/// Kills the run in a save that comes after one more update. Says whether it had to.
fn kill_in_a_save(job: &Job, moment: Moment) -> bool {
    let until = job.lines_so_far() + 1;
    let mut process = job.start();
    process.wait_until(|| job.lines_so_far() >= until);
    // No pause here: what is waited for takes microseconds.
    match moment {
        Moment::AfterBeginning(pause) => {
            while !is_saving(job) && process.runs() {}
            sleep(pause);
        }
        Moment::Appearance => {
            let next = job.checkpoint(job.lines_so_far() as u64 + 1);
            while !next.exists() && process.runs() {}
        }
    }
    process.kill();
    let run = process.end();
    assert!(run.status.is_none() || run.status == Some(0), "{}", run.stderr);
    run.status.is_none()
}

#[test]
fn kills_in_saves_leave_the_result_as_it_is() {
    let straight = job(UPDATES);
    straight.run().success();
    let job = job(UPDATES).set("checkpoint.keep", 2);
    let (mut kills, mut torn) = (0, 0);
    for attempt in 0u64..12 {
        // Spread over a save, which takes some milliseconds.
        let moment = match attempt % 3 {
            0 => Moment::Appearance,
            _ => Moment::AfterBeginning(Duration::from_micros(attempt * 400)),
        };
        if !kill_in_a_save(&job, moment) {
            break;
        }
        kills += 1;
        torn += usize::from(is_saving(&job));
        let newest = (1..=UPDATES).rev().find(|&update| job.checkpoint(update).exists());
        // A line is written before its update is saved, and a save goes to the disk while the next update runs: all but the last
        // two are.
        assert!(newest.unwrap_or(0) as usize + 2 >= job.lines_so_far(), "{newest:?} of {}", job.lines_so_far());
        // What has a checkpoint's name is a whole one.
        for file in ["manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"] {
            assert!(newest.is_none_or(|newest| job.checkpoint(newest).join(file).exists()), "{file} of {newest:?}");
        }
    }
    println!("{kills} kills, {torn} of them while files were written");
    assert!(kills > 0);
    let run = job.run().success();
    assert!(!run.stderr.contains("warning"), "{}", run.stderr);
    assert_same_result(&straight, &job, UPDATES);
    let left = super::names(&job.output().join("checkpoints"));
    assert!(left.iter().all(|name| name == ".lock" || name.starts_with("step-")), "{left:?}");
}

#[test]
fn a_kill_between_saves_goes_back_to_the_last_one() {
    let updates = 150;
    let sparse = || job(updates).set("checkpoint.save_steps", 10);
    let straight = sparse();
    straight.run().success();
    for _ in 0..10 {
        let job = sparse();
        if kill_after(&job, 27, Duration::ZERO) {
            let run = job.run().success();
            assert!(run.stderr.contains("resuming from"), "{}", run.stderr);
            assert_same_result(&straight, &job, updates);
            return;
        }
    }
    panic!("the kill always came too late");
}

#[test]
fn a_kill_before_the_first_checkpoint_starts_anew() {
    let updates = 150;
    let unsaved = || job(updates).set("checkpoint.save_steps", 0);
    let straight = unsaved();
    straight.run().success();
    let job = unsaved();
    kill_after(&job, 1, Duration::ZERO);
    job.run().success();
    assert_same_result(&straight, &job, updates);
}
