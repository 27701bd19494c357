//! `data.on_bad_row = "skip"`: bad rows are passed over in their places, counted and listed; what no row can be read of ends the run.

use std::fs;

use mdt_tests::{Job, Process, assert_says, command, root};
use serde_json::Value;

/// Rows that nothing can be made of, each by another part of the program.
const BAD: [&str; 3] = [
    "{\"prompt\": \"a\"",
    "{\"prompt\": \"a\", \"completion\": 3}",
    "{\"messages\": [{\"role\": \"assistant\", \"content\": \"a\", \"weight\": \"much\"}]}",
];

/// Rows of the fixture with another one after each of them.
fn rows(count: usize, others: impl Fn(usize) -> String) -> String {
    let text = fs::read_to_string(root().join("tests/fixtures/training/train.jsonl")).expect("the fixture");
    text.lines().take(count).enumerate().map(|(place, line)| format!("{line}\n{}\n", others(place))).collect()
}

fn bad(count: usize) -> String {
    rows(count, |place| BAD[place % BAD.len()].to_owned())
}

fn job_on(text: &str) -> Job {
    let job = Job::new();
    let file = job.file("data.jsonl", text).display().to_string();
    job.set("data.train", file).set("data.on_bad_row", "skip").set("data.shuffle", true)
}

/// Six updates of an epoch of 24 rows, of which half are bad, with a checkpoint of each.
fn job() -> Job {
    job_on(&bad(24))
        .set("trainer.num_epochs", 2)
        .set("trainer.batch_size", 2)
        .set("checkpoint.save_steps", 1)
        .set("checkpoint.keep", 0)
}

fn listed(job: &Job) -> Vec<(u64, String)> {
    let text = fs::read_to_string(job.output().join("bad_rows.jsonl")).expect("a list of bad rows");
    let line = |line: &str| {
        let row: Value = serde_json::from_str(line).expect("JSON");
        (row["row"].as_u64().expect("a number"), row["reason"].as_str().expect("text").to_owned())
    };
    text.lines().map(line).collect()
}

#[test]
fn bad_rows_are_counted_shown_and_listed() {
    let job = job();
    let run = job.run().success();
    assert_says(
        &run.stderr,
        &["24 rows, ", "24 bad rows skipped", "bad_rows.jsonl", "data.jsonl row 2: not valid JSON"],
    );
    let shown = run.stderr.lines().filter(|line| line.starts_with("bad row  ")).count();
    assert_eq!(shown, 21, "the first twenty, and where the list is: {}", run.stderr);
    let listed = listed(&job);
    assert_eq!(listed.iter().map(|(row, _)| *row).collect::<Vec<_>>(), (1..=24).map(|row| 2 * row).collect::<Vec<_>>());
    for (reason, part) in listed.iter().zip(["not valid JSON", "must be a string, not a number", "`weight`"]) {
        assert!(reason.1.contains(part), "{reason:?}");
    }
    let preview = job.run_with(&["data", "preview", "--rows", "0"]).success();
    assert_says(&preview.stdout, &["bad       24 rows skipped", "data.jsonl:4: `completion` must be a string"]);
}

#[test]
fn a_bad_row_keeps_its_place_as_a_row_with_nothing_to_train_does() {
    let nothing = rows(24, |_| format!("{{\"prompt\": \"{}\", \"completion\": \"b\"}}", "a".repeat(80)));
    for streaming in [false, true] {
        let [bad, nothing] = [bad(24), nothing.clone()].map(|text| {
            let job = job_on(&text).set("data.streaming", streaming).set("trainer.max_steps", 8);
            job.run().success();
            job
        });
        assert!(bad.final_weights() == nothing.final_weights(), "streaming {streaming}");
    }
}

#[test]
fn a_run_that_skips_rows_resumes_to_the_same_bits_and_lists_each_row_once() {
    for streaming in [false, true] {
        let job = || job().set("data.streaming", streaming).set("data.shuffle_buffer", 10).set("trainer.max_steps", 12);
        let whole = job();
        whole.run().success();
        let killed = job();
        for lines in [2, 7] {
            let mut run = killed.start();
            run.wait_until(|| killed.lines_so_far() >= lines);
            run.kill();
            drop(run.end());
        }
        killed.run().success();
        assert!(whole.final_weights() == killed.final_weights());
        let mut rows = [listed(&whole), listed(&killed)];
        rows.iter_mut().for_each(|rows| rows.sort());
        assert_eq!(rows[0], rows[1]);
        assert_eq!(rows[0].len(), 24, "streaming {streaming}");
    }
}

#[test]
fn ranks_skip_the_same_rows_and_list_all_of_them() {
    for streaming in [false, true] {
        let job = || job().set("data.streaming", streaming).set("compute.threads", 1).set("trainer.max_steps", 12);
        let alone = job();
        alone.run().success();
        let together = job().set("trainer.gradient_accumulation_steps", 1);
        let mut launch = command();
        launch.args(["launch", "-n", "2"]).args(together.arguments()).args(["--set", "comm.use=grpc"]);
        Process::start(&mut launch).end().success();
        assert!(alone.final_weights() == together.final_weights());
        let mut rows = [listed(&alone), listed(&together)];
        rows.iter_mut().for_each(|rows| rows.sort());
        assert_eq!(rows[0], rows[1]);
    }
}

#[test]
fn what_is_no_row_ends_a_run_that_skips_rows() {
    for (text, says) in [
        (BAD[0].repeat(3), "none of the 1 rows can be used"),
        ("[{\"prompt\": \"a\", \"completion\": \"b\"}, {\"prompt\"".to_owned(), "not valid JSON"),
    ] {
        assert_says(&job_on(&text).run().failure(4), &[says]);
    }
    let whole = fs::read(root().join("tests/fixtures/data/train.jsonl.gz")).expect("a fixture");
    let job = Job::new().set("data.on_bad_row", "skip");
    let file = job.file("a.jsonl.gz", &whole[..whole.len() - 4]);
    assert_says(&job.set("data.train", file.display()).run().failure(4), &["damaged or cut off"]);
}

#[test]
fn a_list_of_an_earlier_run_is_not_taken_for_that_of_this_one() {
    let job = job();
    job.run().success();
    let good = job.file("good.jsonl", rows(8, |_| String::new())).display().to_string();
    job.run_with(&["--set", "checkpoint.resume=never", "--set", &format!("data.train={good}")]).success();
    assert!(!job.output().join("bad_rows.jsonl").exists() && job.output().join("earlier-1/bad_rows.jsonl").exists());
}

#[test]
fn rows_are_left_out_by_their_tokens_and_by_their_repetition() {
    let text = rows(6, |place| match place {
        0 => format!("{{\"prompt\": \"a\", \"completion\": \"{}\"}}", "b".repeat(50)),
        1..=3 => "{\"id\": 1, \"prompt\": \"Shout a\\n\", \"completion\": \"A!\"}".replace('1', &place.to_string()),
        _ => String::new(),
    });
    let job = job_on(&text).set("data.deduplicate", true).set("data.max_tokens", 45);
    let run = job.run().success();
    let file = job.directory().join("data.jsonl").display().to_string();
    assert_says(&run.stderr, &["1 left out by data.max_tokens", &format!("({file} row 2)")]);
    assert_says(&run.stderr, &["2 left out that repeat earlier ones", &format!("({file} rows 6, 8)"), "7 rows, "]);
    let failure = job.run_with(&["--set", "data.streaming=true", "--set", "checkpoint.resume=never"]).failure(2);
    assert_says(&failure, &["`data.deduplicate`", "stream"]);
    let all = job.run_with(&["--set", "data.max_tokens=1", "--set", "checkpoint.resume=never"]).failure(4);
    assert_says(&all, &["`data.max_tokens` leaves none of the 10 rows"]);
}
