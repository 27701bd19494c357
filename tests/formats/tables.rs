//! Rows of Parquet and Arrow files train as the same rows on lines do.

use std::fs;
use std::path::PathBuf;

use mdt_tests::{Job, assert_says, root};
use serde_json::Value;

use crate::written::preview;

fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures/tables").join(name)
}

/// A job on these rows, some of which have tools.
fn over(path: PathBuf) -> Job {
    Job::new().set("data.train", path.display()).set("tokenizer.chat_template", fixture("tools.jinja").display())
}

fn trained(job: &Job) -> (Vec<Value>, Vec<u8>) {
    job.run().success();
    (job.unmeasured(), job.final_weights())
}

#[test]
fn every_table_is_seen_as_the_same_rows_on_lines_are() {
    for rows in ["pairs", "chats"] {
        let expected = preview(&over(fixture(&format!("{rows}.jsonl"))));
        let mut seen = 0;
        for file in fs::read_dir(fixture("")).expect("the fixtures").flatten() {
            let name = file.file_name().into_string().expect("a name");
            if name.starts_with(rows) && !name.ends_with(".jsonl") && !name.ends_with(".parts") {
                assert!(preview(&over(file.path())) == expected, "{name}");
                seen += 1;
            }
        }
        assert!(seen >= 4, "{seen} tables of {rows}");
    }
}

#[test]
fn tables_train_to_the_losses_and_weights_of_lines_also_when_rows_are_read_in_their_turn() {
    for (rows, tables) in [
        ("pairs", &["pairs.snappy.parquet", "pairs.zstd.parquet", "pairs.stream.arrow", "pairs.pandas.feather"][..]),
        ("chats", &["chats.json.parquet", "chats.columns.parquet", "chats.saved"]),
    ] {
        let expected = trained(&over(fixture(&format!("{rows}.jsonl"))).set("data.shuffle", true));
        for table in tables {
            for lazy in [false, true] {
                let job =
                    over(fixture(table)).set("data.shuffle", true).set("data.lazy", lazy).set("data.cache", false);
                assert!(trained(&job) == expected, "{table}, lazy {lazy}");
            }
        }
    }
}

#[test]
fn what_datasets_has_saved_in_parts_is_trained_and_evaluated() {
    let run = over(fixture("chats.parts")).run().success();
    assert_says(&run.stderr, &["data     16 rows", "held out 4 rows"]);
}

#[test]
fn a_bad_row_of_a_table_is_named_and_can_be_skipped() {
    // One of the rows has nothing but nulls.
    let job = over(fixture("types.parquet")).set("data.text", "{large}").set("trainer.max_steps", 1);
    assert_says(&job.run().failure(4), &["the row has no `large`", "types.parquet", "row 3"]);
    let run = job.run_with(&["--set", "data.on_bad_row=skip"]).success();
    assert_says(&run.stderr, &["types.parquet row 3: the row has no `large`", "1 bad row"]);
    let mapped = over(fixture("pairs.gzip.parquet")).set("data.fields", "{ prompt = \"question\" }");
    assert_says(&mapped.run().failure(4), &["the row has no `question`", "keys found prompt, completion", "row 1"]);
}

#[cfg(target_os = "linux")]
#[test]
fn those_who_read_json_load_no_parquet() {
    let loads_it = |name: &str| {
        let job = over(fixture(name)).set("trainer.num_epochs", 100_000);
        let mut run = job.start();
        run.wait_until(|| job.lines_so_far() > 0);
        let libraries = fs::read_to_string(format!("/proc/{}/maps", run.id())).expect("what the program has loaded");
        run.kill();
        drop(run.end());
        assert!(libraries.contains("mdt_sft"));
        libraries.contains("mdt_columnar")
    };
    assert!(loads_it("pairs.gzip.parquet") && !loads_it("pairs.jsonl"));
}
