//! `data.eval_split`: rows held out of the training data, and never trained.

use std::collections::BTreeSet;
use std::fs;

use mdt_tests::{Job, assert_says, root};
use serde_json::Value;

/// The rows of one part of a job's data, in their order.
fn part(job: &Job, name: &str) -> Vec<u64> {
    let run = job.run_with(&["data", "preview", "--json", "--rows", "1000", "--split", name]).success();
    let rows = run.stdout.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    rows.filter_map(|line| line["row"].as_u64()).collect()
}

fn split(value: &str) -> Job {
    Job::new().set("data.eval_split", value)
}

#[test]
fn the_parts_are_disjoint_and_complete_and_the_same_in_every_run() {
    for (value, count) in [("0.1", 16), ("1", 1), ("40", 40)] {
        let job = split(value);
        let (train, held_out) = (part(&job, "train"), part(&job, "eval"));
        assert_eq!(held_out.len(), count, "{value}");
        let both: BTreeSet<u64> = train.iter().chain(&held_out).copied().collect();
        assert_eq!((both.len(), train.len() + held_out.len()), (160, 160), "{value}");
        assert!(train.is_sorted() && held_out.is_sorted(), "the order of the file stays");
        assert_eq!((part(&split(value), "train"), part(&split(value), "eval")), (train, held_out), "{value}");
    }
    let other = split("40").set("seed", 2);
    assert_ne!(part(&other, "eval"), part(&split("40"), "eval"), "the seed draws");
}

/// What a run with a split trains and reports is what a run with the two parts as files does.
#[test]
fn held_out_rows_are_not_trained_and_their_loss_is_reported() {
    let job = split("20").set("trainer.eval_steps", 5);
    let run = job.run().success();
    assert_says(&run.stderr, &["data     140 of 160 rows", "held out 20 of 160 rows"]);

    let text = fs::read_to_string(root().join("tests/fixtures/training/train.jsonl")).expect("the fixture");
    let lines: Vec<&str> = text.lines().collect();
    let files = Job::new().set("trainer.eval_steps", 5);
    let write = |name: &str, part: &[u64]| {
        let rows: Vec<&str> = part.iter().map(|&row| lines[row as usize - 1]).collect();
        files.file(name, rows.join("\n")).display().to_string()
    };
    let (train, held_out) = (write("train.jsonl", &part(&job, "train")), write("eval.jsonl", &part(&job, "eval")));
    let files = files.set("data.train", train).set("data.eval", held_out);
    files.run().success();
    assert_eq!(job.unmeasured(), files.unmeasured());
    assert!(job.final_weights() == files.final_weights());
    let losses: Vec<f64> = job.metrics().iter().filter_map(|line| line["eval_loss"].as_f64()).collect();
    assert!(losses.len() >= 3 && losses.last() < losses.first(), "{losses:?}");
}

#[test]
fn rows_with_nothing_to_train_are_dropped_before_the_draw() {
    let job = split("3");
    let answers = ["a", "b", "c", "d"].map(|answer| format!("{{\"prompt\": \"p \", \"completion\": \"{answer}\"}}"));
    // A prompt that fills the row leaves nothing to train.
    let long = format!("{{\"prompt\": \"{}\", \"completion\": \"x\"}}", "p".repeat(100));
    let data = job.file("rows.jsonl", [&answers[..], &[long]].concat().join("\n"));
    let job = job.set("data.train", data.display());
    let (train, held_out) = (part(&job, "train"), part(&job, "eval"));
    assert_eq!((train.len(), held_out.len()), (1, 3));
    assert!(!train.contains(&5) && !held_out.contains(&5), "{train:?} {held_out:?}");
    assert_says(&job.run_with(&["data", "preview"]).success().stdout, &["rows.jsonl:5"]);
}

#[test]
fn another_split_is_another_job() {
    let job = split("20").set("trainer.max_steps", 4).set("checkpoint.save_steps", 2);
    job.run().success();
    let failure = job.run_with(&["--set", "data.eval_split=21"]).failure(2);
    assert_says(&failure, &["`data.eval_split` has changed", "20", "21"]);
}

#[test]
fn a_split_that_cannot_be_made_is_refused_with_status_2_before_anything_is_written() {
    let refused = |job: Job, parts: &[&str]| {
        assert_says(&job.run().failure(2), parts);
        assert!(!job.output().exists());
    };
    let fixture = root().join("tests/fixtures/training/train.jsonl");
    let both = split("0.1").set("data.eval", fixture.display());
    refused(both, &["`data.eval` and `data.eval_split` are both set", "--set data.eval_split"]);
    refused(split("160"), &["leaves nothing to train on", "of the 160 rows"]);
    refused(split("0.999"), &["leaves nothing to train on"]);
    refused(split("0.001"), &["holds out none", "of the 160 rows"]);
    refused(split("0"), &["data.eval_split", "above 0"]);
    refused(split("1.5"), &["`data.eval_split` is 1.5", "--set data.eval_split"]);
    refused(split("\"many\""), &["data.eval_split", "a number"]);
}
