//! `trainer.long_rows`: rows that are longer than `trainer.max_seq_len` are cut, left out or split, and counted.

use mdt_tests::{Job, Process, arrays, assert_says, command, example_plugin, relative_difference};
use serde_json::Value;

/// Most rows are short; the text of row 3 is many times as long as a row may be, and that of row 6 a little longer.
fn rows() -> Vec<String> {
    let mut texts: Vec<String> = (0..9).map(|row| "shout abcdefgh".chars().skip(8 + row % 4).collect()).collect();
    texts[2] = "the quick brown fox jumps over the lazy dog ".repeat(8);
    texts[5] = "a text that does not fit".to_owned();
    texts
}

/// A job over these texts, whose rows have up to 16 tokens.
fn job(long_rows: &str) -> Job {
    let job = Job::new().set("trainer.max_seq_len", 16).set("trainer.long_rows", long_rows);
    let lines: Vec<String> = rows().iter().map(|text| serde_json::json!({ "text": text }).to_string()).collect();
    let file = job.file("texts.jsonl", lines.join("\n")).display().to_string();
    job.set("data.train", file).set("trainer.batch_size", 2).set("trainer.gradient_accumulation_steps", 2)
}

fn total(job: &Job, key: &str) -> f64 {
    job.numbers(key).iter().sum()
}

fn totals(job: &Job) -> Value {
    let run = job.run_with(&["data", "preview", "--json", "--rows", "0"]).success();
    serde_json::from_str::<Value>(&run.stdout).expect("JSON")["totals"].clone()
}

/// The supervised tokens of all rows, whatever their length.
fn all_supervised() -> f64 {
    totals(&job("cut").set("trainer.max_seq_len", 2048))["supervised_tokens"].as_f64().expect("a number")
}

#[test]
fn long_rows_are_cut_left_out_or_split_and_counted() {
    let (cut, dropped, split) = (job("cut"), job("drop"), job("split"));
    assert_says(&cut.run().success().stderr, &["9 rows, ", "2 rows cut at max_seq_len, losing"]);
    let run = dropped.run().success();
    let file = dropped.directory().join("texts.jsonl").display().to_string();
    assert_says(&run.stderr, &["7 rows, ", &format!("2 longer than max_seq_len dropped ({file} rows 3, 6)")]);
    let totals_of_split = totals(&split);
    let pieces = totals_of_split["pieces"].as_u64().expect("a number");
    let run = split.run().success();
    assert_says(&run.stderr, &["9 rows, ", &format!("2 rows longer than max_seq_len split into {pieces} pieces")]);

    // Each supervised token is trained once; those of short rows are trained in any case.
    assert_eq!(total(&split, "supervised_tokens"), all_supervised());
    let short = total(&dropped, "supervised_tokens");
    assert_eq!(total(&cut, "supervised_tokens"), short + 2.0 * 15.0);
    assert!(pieces > 12, "{pieces}");

    // In micro-batches of two rows, also of pieces.
    let places = 7 + pieces;
    assert_eq!(split.updates().len() as u64, places.div_ceil(4));
}

#[test]
fn a_preview_names_what_becomes_of_long_rows() {
    let dropped = totals(&job("drop"));
    let rows: Vec<_> = dropped["too_long"].as_array().expect("a list").iter().map(|row| row["row"].as_u64()).collect();
    assert_eq!(
        (rows, &dropped["rows"], &dropped["dropped"]),
        (vec![Some(3), Some(6)], &7.into(), &serde_json::json!([]))
    );
    let split = totals(&job("split"));
    assert_eq!((&split["rows"], &split["split_rows"], &split["truncated_rows"]), (&9.into(), &2.into(), &0.into()));
    let text = |long_rows: &str| job(long_rows).run_with(&["data", "preview", "--rows", "0"]).success().stdout;
    assert_says(&text("drop"), &["2 more dropped because they are longer than trainer.max_seq_len: ", ":3, ", ":6"]);
    assert_says(&text("split"), &["2 rows longer than trainer.max_seq_len into ", " pieces"]);
    assert_says(&text("cut"), &["2 rows at trainer.max_seq_len, losing"]);
    // Each piece of a row is shown.
    let run = job("split").run_with(&["data", "preview", "--json", "--row", "6"]).success();
    let shown: Vec<Value> = run.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(shown.iter().filter(|line| line["row"] == 6).count(), 2, "{}", run.stdout);
}

#[test]
fn a_long_document_neither_stalls_the_packer_nor_loses_a_token_there() {
    for long_rows in ["cut", "drop", "split"] {
        let (packed, plain) = (job(long_rows).set("trainer.packing", "best_fit"), job(long_rows));
        packed.run().success();
        plain.run().success();
        assert_eq!(total(&packed, "supervised_tokens"), total(&plain, "supervised_tokens"), "{long_rows}");
        assert!(packed.updates().len() < plain.updates().len(), "{long_rows}");
    }
}

/// The same job, in one update of all rows.
fn in_one_update(long_rows: &str, batch_size: u32) -> Job {
    job(long_rows)
        .set("trainer.batch_size", batch_size)
        .set("trainer.gradient_accumulation_steps", 9)
        .set("trainer.max_steps", 1)
}

#[test]
fn the_pieces_of_a_row_that_streams_are_trained_with_it_in_batches_of_the_size_of_others() {
    let whole = in_one_update("split", 9);
    whole.run().success();
    for batch_size in [1, 3, 9] {
        let streamed = in_one_update("split", batch_size).set("data.streaming", true);
        let run = streamed.run().success();
        assert_says(&run.stderr, &["2 rows longer than max_seq_len split into"]);
        for key in ["tokens", "supervised_tokens"] {
            assert_eq!(streamed.numbers(key), whole.numbers(key), "{key}");
        }
        let difference = (streamed.numbers("loss")[0] / whole.numbers("loss")[0] - 1.0).abs();
        let weights = |job: &Job| arrays(&job.output().join("final/model.safetensors"));
        let (ours, theirs) = (weights(&streamed), weights(&whole));
        let apart = ours.iter().zip(&theirs).map(|((_, a), (_, b))| relative_difference(a, b));
        let apart = apart.fold(0.0, f64::max);
        assert!(difference < 1e-6 && apart < 1e-5, "{batch_size}: {difference:e} {apart:e}");
    }
}

#[test]
fn long_rows_that_stream_are_left_out_or_cut_and_counted() {
    let streamed = |long_rows: &str| in_one_update(long_rows, 1).set("data.streaming", true);
    let (cut, dropped) = (streamed("cut"), streamed("drop"));
    assert_says(&cut.run().success().stderr, &["2 rows cut at max_seq_len, losing"]);
    assert_says(&dropped.run().success().stderr, &["2 longer than max_seq_len dropped (first ", "row 3)"]);
    let without_them = in_one_update("drop", 1);
    without_them.run().success();
    assert_eq!(dropped.numbers("supervised_tokens"), without_them.numbers("supervised_tokens"));
}

#[test]
fn a_run_that_resumes_between_the_pieces_of_a_row_has_the_same_bits() {
    for (key, value) in [("data.streaming", "false"), ("data.streaming", "true"), ("trainer.packing", "best_fit")] {
        let job = || {
            let job =
                job("split").set("data.shuffle", true).set("trainer.gradient_accumulation_steps", 1).set(key, value);
            job.set("checkpoint.save_steps", 1).set("checkpoint.keep", 100).set("trainer.max_steps", 10)
        };
        let (whole, resumed) = (job(), job());
        whole.run().success();
        resumed.run().success();
        for update in 6..=10 {
            std::fs::remove_dir_all(resumed.checkpoint(update)).expect("it was written");
        }
        std::fs::remove_dir_all(resumed.output().join("final")).expect("it was written");
        assert_says(&resumed.run().success().stderr, &["resuming from"]);
        assert!(resumed.final_weights() == whole.final_weights(), "{key} = {value}");
        assert_eq!(resumed.numbers("loss"), whole.numbers("loss"), "{key} = {value}");
    }
}

#[test]
fn ranks_train_on_the_pieces_of_one_process() {
    for streaming in ["false", "true"] {
        let job = |micro_batches: u32| {
            let job = job("split").set("data.shuffle", true).set("data.streaming", streaming).set("compute.threads", 1);
            job.set("trainer.gradient_accumulation_steps", micro_batches).set("trainer.max_steps", 4)
        };
        let (one, two) = (job(2), job(1));
        one.run().success();
        let mut launch = command();
        launch.args(["launch", "-n", "2"]).args(two.arguments()).args(["--set", "comm.use=grpc"]);
        Process::start(&mut launch).end().success();
        assert!(one.final_weights() == two.final_weights(), "streaming: {streaming}");
        assert_eq!(one.numbers("loss"), two.numbers("loss"));
    }
}

#[test]
fn a_trainer_whose_items_cannot_be_split_is_refused_before_training() {
    let library = example_plugin("dpo");
    let job = Job::of(&["dpo/job.toml"]).set("trainer.long_rows", "split");
    let job = job.argument("--plugin-dir").argument(library.parent().expect("a directory").display().to_string());
    let error = job.run().failure(2);
    assert_says(
        &error,
        &["`trainer.long_rows`", "trainer dpo", "2 sequences, \"chosen\", \"rejected\"", "\"cut\" or \"drop\""],
    );
    assert!(!job.output().join("metrics.jsonl").exists(), "something was trained");
}

#[test]
fn rows_of_which_none_fits_are_an_error_that_says_so() {
    let job = job("drop").set("trainer.max_seq_len", 2);
    assert_says(&job.run().failure(4), &["none of the 9 rows can be trained", "\"drop\"", "trainer.max_seq_len"]);
}
