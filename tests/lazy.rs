//! `data.lazy`: rows are tokenized when their turn comes, to the bits of rows that are read whole; what they became is kept.

use std::fs;
use std::path::PathBuf;

use mdt_tests::{Job, Process, assert_says, command, root};

/// Two epochs of six updates, in an order of their own, with a checkpoint of each update and a cache of the job's own.
fn job(lazy: bool) -> Job {
    let job = Job::new()
        .rows(0..23)
        .set("data.shuffle", true)
        .set("data.lazy", lazy)
        .set("trainer.batch_size", 2)
        .set("trainer.gradient_accumulation_steps", 2)
        .set("trainer.num_epochs", 2)
        .set("checkpoint.save_steps", 1)
        .set("checkpoint.keep", 0);
    let cache = job.directory().join("cache").display().to_string();
    job.set("data.cache", cache)
}

fn segments(job: &Job) -> Vec<PathBuf> {
    let keys = fs::read_dir(job.directory().join("cache/rows")).into_iter().flatten().flatten();
    let files = keys.flat_map(|key| fs::read_dir(key.path()).into_iter().flatten().flatten().map(|file| file.path()));
    files.collect()
}

#[track_caller]
fn assert_same(a: &Job, b: &Job) {
    assert_eq!(a.unmeasured(), b.unmeasured());
    assert!(a.final_weights() == b.final_weights(), "the final weights differ");
}

#[test]
fn rows_that_are_tokenized_late_train_to_the_bits_of_rows_that_are_read_whole() {
    let text = "{\"prompt\": \"a\", \"completion\": 3}\n";
    for keys in [
        &[][..],
        &[("data.limit", "9")],
        &[("trainer.long_rows", "drop"), ("trainer.max_seq_len", "24")],
        &[("data.on_bad_row", "skip")],
    ] {
        let [whole, lazy] = [false, true].map(|lazy| {
            let job = keys.iter().fold(job(lazy), |job, (key, value)| job.set(key, value));
            if keys == [("data.on_bad_row", "skip")] {
                let rows = fs::read_to_string(job.directory().join("train.jsonl")).expect("the rows of the job");
                job.file("train.jsonl", text.to_owned() + &rows + "\n\n" + text);
            }
            job
        });
        let run = whole.run().success();
        assert!(segments(&whole).is_empty() && !run.stderr.contains("when their turn comes"));
        assert_says(&lazy.run().success().stderr, &["tokenized when their turn comes"]);
        assert_same(&whole, &lazy);
    }
}

#[test]
fn arrays_and_tables_are_read_in_any_order_too() {
    let text = fs::read_to_string(root().join("tests/fixtures/tables/pairs.jsonl")).expect("the fixture");
    let rows: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let cell = |row: &serde_json::Value, name: &str| format!("\"{}\"", row[name].as_str().expect("text"));
    let table = rows.iter().map(|row| format!("{},{}\n", cell(row, "prompt"), cell(row, "completion")));
    let table = format!("prompt,completion\n{}", table.collect::<String>());
    let over = |lazy, name: &str, content: &str| {
        let job = job(lazy);
        let file = job.file(name, content).display().to_string();
        job.set("data.train", file)
    };
    let expected = over(false, "rows.jsonl", &text);
    expected.run().success();
    for (name, content) in [("rows.json", &serde_json::to_string_pretty(&rows).expect("JSON")), ("rows.csv", &table)] {
        let job = over(true, name, content);
        assert_says(&job.run().success().stderr, &["24 rows of ", "tokenized when their turn comes"]);
        assert_same(&expected, &job);
    }
}

#[test]
fn compressed_files_are_unpacked_into_the_cache_once() {
    let over = |lazy, name: &str| job(lazy).set("data.train", root().join("tests/fixtures/data").join(name).display());
    let expected = over(false, "train.jsonl.gz");
    expected.run().success();
    for kind in ["gz", "zst", "bz2", "xz"] {
        let job = over(true, &format!("train.jsonl.{kind}"));
        assert_says(&job.run().success().stderr, &["unpacking ", "tokenized when their turn comes"]);
        assert_same(&expected, &job);
        let again = job.run_with(&["--set", "checkpoint.resume=never"]).success();
        assert!(!again.stderr.contains("unpacking "), "{}", again.stderr);
    }
}

#[test]
fn the_same_rows_are_held_out_as_of_rows_that_are_read_whole() {
    for split in ["5", "0.3"] {
        let [whole, lazy] =
            [false, true].map(|lazy| job(lazy).set("data.eval_split", split).set("trainer.eval_steps", 3));
        whole.run().success();
        let held_out = if split == "5" { 5 } else { 7 };
        let says = [&format!("{} of 23 rows of ", 23 - held_out)[..], &format!("held out {held_out} of 23 rows")];
        assert_says(&lazy.run().success().stderr, &says);
        assert_same(&whole, &lazy);
        // Also after a resume.
        fs::remove_dir_all(lazy.output().join("final")).expect("the trained model");
        fs::remove_dir_all(lazy.checkpoint(lazy.updates().len() as u64)).expect("the last checkpoint");
        lazy.run().success();
        assert_same(&whole, &lazy);
    }
}

#[test]
fn a_second_run_takes_rows_from_the_cache_and_another_tokenizer_or_file_does_not() {
    let job = job(true);
    job.run().success();
    assert!(!segments(&job).is_empty(), "rows are kept");
    let again = |more: &[&str]| {
        let more: Vec<&str> = ["--set", "checkpoint.resume=never"].iter().chain(more).copied().collect();
        job.run_with(&more).success().stderr
    };
    let weights = job.final_weights();
    assert_says(&again(&[]), &["23 of them are from the cache"]);
    assert!(job.final_weights() == weights);
    for other in [
        ["--set", "trainer.max_seq_len=60"],
        ["--set", "data.max_tokens=90"],
        ["--set", "data.format=prompt_completion"],
    ] {
        assert!(!again(&other).contains("from the cache"), "{other:?}");
    }
    // Whatever happened to what is kept.
    for path in segments(&job) {
        let mut bytes = fs::read(&path).expect("a segment");
        let middle = bytes.len() / 3;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).expect("a segment");
    }
    again(&[]);
    assert!(job.final_weights() == weights);
    assert!(!again(&["--set", "data.cache=false"]).contains("from the cache"));
}

#[test]
fn a_run_that_was_killed_anywhere_ends_with_the_same_bits() {
    let straight = job(true);
    straight.run().success();
    let killed = job(true);
    for lines in [1, 4, 6, 11] {
        let mut run = killed.start();
        run.wait_until(|| killed.lines_so_far() >= lines);
        run.kill();
        drop(run.end());
    }
    killed.run().success();
    assert_same(&straight, &killed);
}

#[test]
fn ranks_tokenize_their_own_rows_and_share_what_is_kept() {
    let alone = job(true).set("compute.threads", 1);
    alone.run().success();
    let together = job(true).set("compute.threads", 1).set("trainer.gradient_accumulation_steps", 1);
    let launch = |more: &[&str]| {
        let mut launch = command();
        launch.args(["launch", "-n", "2"]).args(together.arguments()).args(["--set", "comm.use=grpc"]).args(more);
        Process::start(&mut launch).end().success().stderr
    };
    launch(&[]);
    assert_same(&alone, &together);
    assert_says(&launch(&["--set", "checkpoint.resume=never"]), &["23 of them are from the cache"]);
    assert_same(&alone, &together);
}

#[test]
fn rows_are_placed_by_lengths_alone_to_the_bits_of_rows_that_are_read_whole() {
    let (packed, split) = (("trainer.packing", "best_fit"), ("trainer.long_rows", "split"));
    let short = ("trainer.max_seq_len", "16");
    let (once, split_off) = (("data.deduplicate", "true"), ("data.eval_split", "5"));
    for keys in [
        &[packed, ("trainer.max_seq_len", "64")][..],
        &[("trainer.bucketing", "true")],
        &[once],
        &[split, short],
        &[packed, split, short, once, split_off],
        &[("trainer.bucketing", "true"), split_off, ("data.limit", "20")],
        &[packed, ("data.on_bad_row", "skip"), ("trainer.long_rows", "drop"), ("trainer.max_seq_len", "24")],
    ] {
        let [whole, lazy] = [false, true].map(|lazy| {
            let job = keys.iter().fold(job(lazy), |job, (key, value)| job.set(key, value));
            let rows = fs::read_to_string(job.directory().join("train.jsonl")).expect("the rows of the job");
            let bad = if keys.len() == 4 { "{\"prompt\": \"a\", \"completion\": 3}\n" } else { "" };
            let again = rows.lines().take(3).collect::<Vec<_>>().join("\n");
            job.file("train.jsonl", format!("{bad}{rows}\n{again}\n{bad}"));
            job
        });
        let lines = |stderr: &str| -> Vec<String> {
            // That `data.limit` ends reading is only said where reading is one step.
            let start = |line: &&str| {
                let is_one = ["data ", "held out", "plan "].iter().any(|name| line.starts_with(name));
                is_one && !line.starts_with("data     reading ends")
            };
            let lines = stderr.lines().filter(start);
            let of = |line: &str| line.replace(&lazy.directory().display().to_string(), "");
            lines.map(|line| of(line).replace(&whole.directory().display().to_string(), "")).collect()
        };
        let expected = lines(&whole.run().success().stderr);
        let taken = "; tokens are taken from the cache when their turn comes";
        let run = lazy.run().success();
        assert_eq!(lines(&run.stderr.replace(taken, "")), expected, "{keys:?}");
        assert_says(&run.stderr, &[taken]);
        assert_same(&whole, &lazy);
        // From the cache, and after a resume in the middle.
        fs::remove_dir_all(lazy.output().join("final")).expect("the trained model");
        for update in lazy.updates().len() as u64 - 2..=lazy.updates().len() as u64 {
            fs::remove_dir_all(lazy.checkpoint(update)).expect("one of the last checkpoints");
        }
        lazy.run().success();
        assert_same(&whole, &lazy);
    }
}

#[test]
fn rows_without_anything_to_train_are_refused_as_where_they_are_read_whole() {
    let job = |lazy| job(lazy).set("trainer.packing", "best_fit").set("trainer.max_seq_len", 4);
    let [whole, lazy] = [false, true].map(|lazy| {
        let job = job(lazy);
        let place = job.directory().display().to_string();
        job.run().failure(4).replace(&place, "")
    });
    assert_says(&whole, &["none of the 23 rows has anything to train"]);
    assert_eq!(whole, lazy);
}

#[test]
fn ranks_pack_the_same_rows() {
    let job = || job(true).set("compute.threads", 1).set("trainer.packing", "best_fit").set("trainer.max_seq_len", 64);
    let (alone, together) = (job(), job().set("trainer.gradient_accumulation_steps", 1));
    alone.run().success();
    let mut launch = command();
    launch.args(["launch", "-n", "2"]).args(together.arguments()).args(["--set", "comm.use=grpc"]);
    Process::start(&mut launch).end().success();
    assert_same(&alone, &together);
}

#[test]
fn what_is_only_read_from_its_beginning_cannot_be_lazy() {
    let job = job(true);
    let compressed = root().join("tests/fixtures/data/train.jsonl.gz");
    let failure = job.set("data.train", compressed.display()).set("data.cache", false).run().failure(2);
    assert_says(&failure, &["`data.lazy` is true", "train.jsonl.gz is read from its beginning"]);
}

#[test]
fn data_preview_shows_the_first_rows_without_reading_all() {
    for packing in ["none", "best_fit"] {
        let job = job(true).set("data.shuffle_buffer", 5).set("trainer.packing", packing);
        let run = job.run_with(&["data", "preview"]).success();
        assert_says(&run.stderr, &["these are totals of the first 5"]);
        assert_eq!(run.stdout.contains("packed"), packing == "best_fit", "{}", run.stdout);
        assert!(segments(&job).is_empty(), "not all rows are encoded");
    }
}
