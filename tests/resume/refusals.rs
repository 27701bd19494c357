//! What may change between two runs of a job, and what not.

use std::fs;

use mdt_tests::Job;

use super::{job, rewind};

fn stopped() -> Job {
    let job = job(4);
    job.run().success();
    rewind(&job, 2, 4);
    job
}

#[test]
fn a_changed_configuration_is_refused_and_the_key_named() {
    let job = stopped();
    let changes = [("seed", "3"), ("optimizer.beta1", "0.8"), ("trainer.batch_size", "4"), ("data.shuffle", "false")];
    for (key, value) in changes {
        let error = job.run_with(&["--set", &format!("{key}={value}")]).failure(2);
        assert!(error.contains(&format!("`{key}` has changed since the checkpoint was written")), "{error}");
        assert!(error.contains(&format!("and is {value}: ")), "the value and the reason: {error}");
        assert!(error.contains(&job.checkpoint(2).display().to_string()), "{error}");
    }
    assert!(job.checkpoint(2).exists() && !job.output().join("final").exists());
}

#[test]
fn keys_that_change_no_result_may_change() {
    let job = stopped();
    job.run_with(&["--set", "checkpoint.keep=1", "--set", "checkpoint.save_steps=0", "--set", "metrics.every=2"])
        .success();
    assert_eq!(job.updates().last().expect("a line")["step"], 4);
    assert!(!job.checkpoint(1).exists() && job.checkpoint(4).exists());
}

#[test]
fn where_ranks_meet_how_long_they_wait_and_when_a_run_evaluates_may_change() {
    let job = job(4).set("comm.use", "grpc");
    job.run().success();
    let weights = job.final_weights();
    rewind(&job, 2, 4);
    let rows = format!("data.eval={}", job.directory().join("train.jsonl").display());
    let changes = ["comm.connect_timeout_s=7", "comm.insecure=true", "comm.address=localhost", "comm.timeout_s=9"];
    let changes = changes.into_iter().chain(["trainer.eval_steps=1", "trainer.early_stopping_min_delta=0.1", &rows]);
    let changes: Vec<&str> = changes.flat_map(|change| ["--set", change]).collect();
    let run = job.run_with(&changes).success();
    assert!(run.stderr.contains("held-out loss after update 3"), "{}", run.stderr);
    assert!(job.final_weights() == weights);
}

#[test]
fn changed_data_are_refused() {
    let job = stopped();
    let path = job.directory().join("train.jsonl");
    let text = fs::read_to_string(&path).expect("the rows");
    let mut rows: Vec<_> = text.lines().collect();
    rows.swap(3, 4);
    fs::write(&path, rows.join("\n")).expect("two rows in the other order");
    let error = job.run().failure(2);
    assert!(error.contains("the training data has changed since the checkpoint was written"), "{error}");
    assert!(error.contains(&path.display().to_string()), "{error}");
    // The same rows in a file that is written differently are the same data.
    fs::write(&path, text.replace("\", \"", "\",\"") + "\n").expect("the rows");
    job.run().success();
}

#[test]
fn data_may_move_between_runs() {
    let files = |name: &str| (format!("data.train={name}/train.jsonl"), format!("data.eval={name}/eval.jsonl"));
    let job = job(4);
    let here = job.directory().join("here").display().to_string();
    let (train, eval) = files(&here);
    let rows = fs::read(job.directory().join("train.jsonl")).expect("the rows");
    job.file("here/train.jsonl", &rows);
    job.file("here/eval.jsonl", &rows);
    let straight = job.run_with(&["--set", &train, "--set", &eval]).success();
    assert!(straight.stderr.contains("held-out loss after update 4"), "{}", straight.stderr);
    let (weights, lines) = (job.final_weights(), job.unmeasured());

    rewind(&job, 2, 4);
    let there = job.directory().join("there");
    fs::rename(&here, &there).expect("a directory that can be moved");
    let (train, eval) = files(&there.display().to_string());
    job.run_with(&["--set", &train, "--set", &eval]).success();
    assert!(job.final_weights() == weights && job.unmeasured() == lines);

    rewind(&job, 2, 4);
    let other = String::from_utf8_lossy(&rows).lines().rev().collect::<Vec<_>>().join("\n");
    job.file("there/eval.jsonl", other);
    let run = job.run_with(&["--set", &train, "--set", &eval]).success();
    assert!(run.stderr.contains("changed  the held-out rows are others"), "{}", run.stderr);
    assert!(run.stderr.contains("held-out loss after update 2"), "evaluated where it goes on: {}", run.stderr);
    assert!(job.final_weights() == weights);
}

#[test]
fn numbers_of_seventeen_digits_are_the_same_when_they_come_back() {
    // Read with one rounding too many, each of these comes back as its neighbour.
    for rate in ["0.0072585260144651526", "4.3276706790505336e-07", "0.0009364405867994597"] {
        let job = job(2).set("optimizer.learning_rate", rate);
        job.run().success();
        let again = job.run().success();
        assert!(again.stderr.contains("all 2 updates are done already"), "{rate}: {}", again.stderr);
    }
}
