//! SIGINT and SIGTERM: a checkpoint, a message, and the same result once the job is run again.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mdt_tests::{Job, Process, Run, assert_says, built, command, root};

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
fn signals_within_a_second_are_one_and_nothing_is_lost() {
    for _ in 0..10 {
        let job = long_job();
        let mut process = job.start();
        process.wait_until(|| job.lines_so_far() >= 3);
        process.signal("INT");
        std::thread::sleep(Duration::from_millis(20));
        process.signal("INT");
        process.signal("TERM");
        let run = process.end();
        if run.status == Some(0) {
            continue;
        }
        let done = job.lines_so_far() as u64;
        assert!(run.stderr.contains("stopping at the next safe point"), "{}", run.stderr);
        run.failure(130);
        assert!(job.checkpoint(done).join("manifest.json").exists());
        return;
    }
    panic!("the signals always came too late");
}

#[test]
fn a_hangup_saves_like_any_other_signal() {
    let (job, run) = interrupted("HUP", 3);
    let done = job.lines_so_far() as u64;
    run.failure(130);
    assert!(job.checkpoint(done).join("manifest.json").exists());
}

#[test]
fn a_hangup_that_was_ignored_at_the_start_is_ignored() {
    let job = job(30);
    let script = "trap '' HUP; exec \"$@\"";
    let program = built().join("mdt-host");
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(program).args(job.arguments()).current_dir(root());
    let mut process = Process::start(&mut shell);
    process.wait_until(|| job.lines_so_far() >= 1);
    process.signal("HUP");
    process.end().success();
    assert_eq!(job.updates().len(), 30);
}

#[test]
fn a_job_whose_terminal_is_gone_still_saves() {
    for _ in 0..10 {
        let job = long_job();
        let mut child = command().args(job.arguments()).stderr(Stdio::piped()).spawn().expect("the program starts");
        while job.lines_so_far() < 3 {
            assert!(child.try_wait().expect("a child can be asked").is_none_or(|status| status.success()));
            std::thread::sleep(Duration::from_millis(1));
        }
        // Nothing that the program prints from now on can be written.
        drop(child.stderr.take());
        let kill = Command::new("kill").args(["-s", "HUP", &child.id().to_string()]).status();
        assert!(kill.is_ok_and(|status| status.success()));
        let status = child.wait().expect("it ends").code();
        if status == Some(0) {
            continue;
        }
        assert_eq!(status, Some(130));
        assert!(job.checkpoint(job.lines_so_far() as u64).join("manifest.json").exists());
        return;
    }
    panic!("the signal always came too late");
}

/// Trains on rows that come slowly and never end.
fn slow_job(updates: u64) -> Job {
    job(updates).set("data", "{ use = \"endless\", train = \"rows\", pause_ms = 50, shuffle_buffer = 8 }")
}

#[test]
fn an_interrupt_while_rows_are_read_ends_at_once_and_leaves_nothing_that_refuses_a_correction() {
    let job = slow_job(1000);
    let mut process = job.start();
    process.wait_for("the endless source is open");
    let begin = Instant::now();
    process.signal("INT");
    let error = process.end().failure(130);
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert_says(&error, &["interrupted before the first update", "nothing has been trained"]);
    assert!(!job.checkpoint(0).exists());
    job.run_with(&["--set", "trainer.max_steps=1", "--set", "optimizer.learning_rate=5e-4"]).success();
}

#[test]
fn an_interrupt_before_the_first_update_writes_no_checkpoint_and_a_corrected_configuration_runs() {
    // The evaluation before the first update takes long enough to be interrupted.
    let job = evaluating_job(2).set("trainer.eval_at_start", true);
    let mut process = job.start();
    process.wait_for("plan     2 updates");
    process.signal("INT");
    let error = process.end().failure(130);
    assert_says(&error, &["interrupted before the first update", "no checkpoint was written"]);
    assert!(!job.checkpoint(0).exists());
    let rows = job.directory().join("train.jsonl").display().to_string();
    let corrected = ["--set", "optimizer.learning_rate=5e-4", "--set", &format!("data.eval={rows}")];
    job.run_with(&corrected).success();
}

/// A job that evaluates a thousand batches after every update.
fn evaluating_job(updates: u64) -> Job {
    let job = job(updates);
    let row = "{\"prompt\": \"How many clips?\", \"completion\": \" Seven.\"}\n";
    let rows = job.file("eval.jsonl", row.repeat(2000)).display().to_string();
    job.set("data.eval", rows).set("trainer.eval_steps", 1).set("checkpoint.save_steps", 0)
}

#[test]
fn an_interrupted_evaluation_is_made_at_the_resume() {
    let straight = evaluating_job(2);
    straight.run().success();
    let job = evaluating_job(2);
    let mut process = job.start();
    process.wait_until(|| job.lines_so_far() >= 1);
    let begin = Instant::now();
    process.signal("TERM");
    process.end().failure(130);
    println!("the evaluation ended after {:?}", begin.elapsed());
    assert_eq!(job.lines_so_far(), 1, "the evaluation was not interrupted");
    assert!(job.checkpoint(1).join("manifest.json").exists());
    job.run().success();
    assert_same_result(&straight, &job, 2);
}

#[test]
fn a_second_signal_more_than_a_second_later_ends_the_program_at_once() {
    // Update 3 never ends.
    let job = job(1000).set("optimizer", "{ use = \"ends_the_process\", by = \"spin\" }");
    let mut process = job.start();
    process.wait_until(|| job.lines_so_far() >= 2);
    std::thread::sleep(Duration::from_millis(500));
    process.signal("INT");
    std::thread::sleep(Duration::from_millis(1200));
    assert!(process.runs(), "the first signal asks for an end at the next safe point: {}", process.end().stderr);
    process.signal("INT");
    let error = process.end().failure(1);
    assert_says(&error, &["stopped at once by a second signal", "since the last checkpoint are not saved"]);
}
