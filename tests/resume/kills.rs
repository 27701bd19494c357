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
    process.signal("KILL");
    let run = process.end();
    assert!(run.status.is_none() || run.status == Some(0), "{}", run.stderr);
    killed && run.status.is_none()
}

#[test]
fn kills_while_every_update_is_saved_leave_the_result_as_it_is() {
    let straight = job(UPDATES);
    straight.run().success();
    let job = job(UPDATES).set("checkpoint.keep", 2);
    let mut kills = 0;
    for attempt in 0u64..10 {
        // Moments spread over an update and its save, which take some milliseconds.
        let moment = Duration::from_micros(attempt * 1_700 % 9_000);
        if !kill_after(&job, 2 + attempt as usize % 3, moment) {
            break;
        }
        kills += 1;
        let newest = (1..=UPDATES).rev().find(|&update| job.checkpoint(update).exists()).expect("a checkpoint");
        // A line is written before its update is saved, so all but the last are.
        assert!(newest as usize + 1 >= job.lines_so_far(), "{newest} is saved of {}", job.lines_so_far());
    }
    println!("{kills} kills");
    assert!(kills > 0);
    let run = job.run().success();
    assert!(!run.stderr.contains("warning"), "{}", run.stderr);
    assert_same_result(&straight, &job, UPDATES);
    let left = super::names(&job.output().join("checkpoints"));
    assert!(!left.iter().any(|name| name.ends_with(".tmp") || name.ends_with(".gone")), "{left:?}");
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
