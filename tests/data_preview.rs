//! `mdt-host data preview`: what is shown is what training sees.

use std::collections::BTreeMap;
use std::fs;

use mdt_tests::{Job, assert_says, command, root, run};
use serde_json::{Value, json};

/// The lines of a preview in JSON: rows, then totals.
fn preview(job: &Job, arguments: &[&str]) -> (Vec<Value>, Value) {
    let run = job.run_with(&[&["data", "preview", "--json"], arguments].concat()).success();
    let mut lines: Vec<Value> = run.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let totals = lines.pop().expect("a line of totals")["totals"].take();
    (lines, totals)
}

fn text(job: &Job, arguments: &[&str]) -> String {
    job.run_with(&[&["data", "preview"], arguments].concat()).success().stdout
}

/// A job over these rows.
fn over(rows: &[Value]) -> Job {
    with_rows(Job::new(), rows)
}

/// A job over these rows with the tokenizer and the template of a fixture; the model has no weights.
fn chat(template: &str, rows: &[Value]) -> Job {
    let directory = root().join("tests/fixtures/chat").join(template);
    with_rows(Job::new().tiny_llama(&directory, 304).set("trainer.max_seq_len", 256), rows)
}

fn with_rows(job: Job, rows: &[Value]) -> Job {
    let rows: Vec<_> = rows.iter().map(Value::to_string).collect();
    let data = job.file("rows.jsonl", rows.join("\n"));
    job.set("data.train", data.display())
}

#[test]
fn totals_are_the_counts_of_the_training_run() {
    let job = Job::new();
    let (_, totals) = preview(&job, &["--rows", "0"]);
    job.run().success();
    let sum = |key: &str| job.numbers(key).iter().sum::<f64>();
    assert_eq!(totals["tokens"].as_f64(), Some(sum("tokens")));
    assert_eq!(totals["supervised_tokens"].as_f64(), Some(sum("supervised_tokens")));
    assert_eq!(totals["updates"], 20);
    assert_eq!(totals["updates_per_epoch"], 20);
    assert_eq!(totals["rows"], 160);
}

#[test]
fn ids_and_marks_are_those_of_transformers_in_every_template() {
    for template in ["chatml", "llama3", "llama2"] {
        let directory = root().join("tests/fixtures/chat").join(template);
        let expected = fs::read_to_string(directory.join("expected.json")).expect("the fixture");
        let expected: Value = serde_json::from_str(&expected).expect("JSON");
        let conversations: Vec<_> = expected["conversations"].as_object().expect("conversations").values().collect();
        let rows: Vec<_> = conversations.iter().map(|row| json!({ "messages": row["messages"] })).collect();
        let job = chat(template, &rows);
        let (shown, _) = preview(&job, &["--rows", "1000"]);
        assert_eq!(shown.len(), conversations.len());
        for (row, conversation) in shown.iter().zip(conversations) {
            let list = |value: &Value| value.as_array().expect("a list").clone();
            assert_eq!(row["tokens"], conversation["input_ids"], "{template}");
            let marks = list(&row["supervised"]).iter().map(|mark| i64::from(mark == true)).collect::<Vec<_>>();
            assert_eq!(json!(marks), conversation["assistant_mask"], "{template}");
            let pieces: String = list(&row["pieces"]).iter().filter_map(Value::as_str).collect();
            assert_eq!(row["text"], pieces, "{template}");
            // What every message says can be read in the text, and so can the token that ends an answer.
            for message in list(&conversation["messages"]) {
                let content = message["content"].as_str().expect("text").trim();
                assert!(pieces.contains(content), "{template}: {content:?} is not in {pieces:?}");
            }
            let end = ["<|im_end|>", "<|eot_id|>", "</s>"].iter().any(|end| pieces.contains(end));
            assert!(end, "{template}: {pieces}");
        }
    }
}

#[test]
fn brackets_enclose_the_answer_and_its_end_and_characters_of_many_tokens_stay_whole() {
    let job = chat("chatml", &[json!({ "prompt": "Grüße, ", "completion": "𝄞 für 5 €" })]);
    let shown = text(&job, &[]);
    assert_says(&shown, &["rows.jsonl:1  ", "  │ Grüße, ⟦𝄞 für 5 €<|im_end|>⟧\n", "\"€\"]", "\"<|im_end|>\"]"]);
    assert!(!shown.contains('\u{FFFD}') && !shown.contains('\x1b'), "{shown}");
    let (rows, _) = preview(&job, &[]);
    assert_eq!(rows[0]["text"], "Grüße, 𝄞 für 5 €<|im_end|>");
}

#[test]
fn colour_is_for_terminals_and_whoever_asks() {
    let job = over(&[json!({ "prompt": "a ", "completion": "b" })]);
    assert!(!text(&job, &[]).contains('\x1b'));
    assert!(!text(&job, &["--color", "never"]).contains('\x1b'));
    let coloured = text(&job, &["--color", "always"]);
    assert_says(&coloured, &["<s>a \x1b[32mb</s>\x1b[0m"]);
    assert!(!coloured.contains('⟦'), "{coloured}");
}

/// Runs the preview with a terminal as its standard output, which the system's `script` makes.
#[cfg(target_os = "linux")]
fn on_a_terminal(job: &Job, variables: &[(&str, &str)]) -> Option<String> {
    let program = command();
    let quoted = |text: &std::ffi::OsStr| format!("'{}'", text.to_string_lossy());
    let arguments = job.arguments().iter().map(AsRef::as_ref).chain(["data".as_ref(), "preview".as_ref()]);
    let line: Vec<_> = std::iter::once(program.get_program()).chain(arguments).map(quoted).collect();
    let mut script = std::process::Command::new("script");
    script.args(["-qec", &line.join(" "), "/dev/null"]).current_dir(root()).env("TERM", "xterm").env_remove("NO_COLOR");
    let output = script.envs(variables.iter().copied()).output().ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(target_os = "linux")]
#[test]
fn a_terminal_has_colour_unless_no_color_is_set() {
    let job = over(&[json!({ "prompt": "a ", "completion": "b" })]);
    let Some(shown) = on_a_terminal(&job, &[]) else { return eprintln!("skipped: there is no `script` here") };
    assert_says(&shown, &["\x1b[32mb</s>\x1b[0m"]);
    let plain = on_a_terminal(&job, &[("NO_COLOR", "1")]).expect("it was there");
    assert_says(&plain, &["⟦b</s>⟧"]);
    assert!(!plain.contains("\x1b[32m"), "{plain}");
}

#[test]
fn what_is_cut_or_dropped_is_counted_named_and_can_be_looked_at() {
    let rows = [
        json!({ "prompt": "abc ", "completion": "d" }),
        json!({ "prompt": "abc ", "completion": "d".repeat(20) }),
        json!({ "prompt": "a".repeat(20), "completion": "d" }),
    ];
    let job = over(&rows).set("trainer.max_seq_len", 10);
    let (shown, totals) = preview(&job, &["--rows", "9"]);
    assert_eq!(shown.iter().map(|row| row["row"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(2)]);
    assert_eq!((&totals["rows"], &totals["truncated_rows"]), (&json!(2), &json!(1)));
    assert_eq!(totals["truncated_tokens"], shown[1]["truncated"]);
    assert_eq!(totals["dropped"][0]["row"], 3);
    assert_says(&text(&job, &["--rows", "0"]), &["rows.jsonl:3", "cut       1 row at trainer.max_seq_len"]);

    let (shown, _) = preview(&job, &["--row", "3"]);
    assert_eq!((shown.len(), &shown[0]["supervised_tokens"]), (1, &json!(0)));
    assert_says(&text(&job, &["--row", "3"]), &["rows.jsonl:3", "nothing to train, dropped"]);

    // Where no row is left, the one that was asked for is shown before the error.
    let job = over(&rows[2..]).set("trainer.max_seq_len", 10);
    let run = job.run_with(&["data", "preview", "--row", "1"]);
    assert_says(&run.stdout, &["nothing to train, dropped"]);
    assert_says(&run.failure(4), &["none of the 1 rows has anything to train"]);
}

#[test]
fn padding_is_that_of_the_configured_batches() {
    let row = |length: usize| json!({ "text": "a".repeat(length) });
    let totals = |batch_size: usize| {
        let job = over(&[row(2), row(6), row(4), row(4)]).set("trainer.gradient_accumulation_steps", 1);
        preview(&job.set("trainer.batch_size", batch_size), &["--rows", "0"]).1
    };
    let share = |batch_size: usize| totals(batch_size)["padding_share"].as_f64().expect("a number");
    // Each row has bos and eos too: 4, 8, 6 and 6 tokens.
    assert_eq!(share(1), 0.0);
    assert_eq!(share(2), 4.0 / 28.0);
    assert_eq!(share(4), 8.0 / 32.0);
    let lengths = json!({ "mean": 6.0, "shortest": 4, "p50": 6, "p90": 8, "p99": 8, "longest": 8 });
    assert_eq!(totals(4)["lengths"], lengths);
}

#[test]
fn a_preview_needs_no_weights_and_writes_nothing() {
    let job = chat("chatml", &[json!({ "text": "Hello" })]).set("model.init", "pretrained");
    assert_says(&text(&job, &[]), &["H⟦ello<|im_end|>⟧"]);
    assert!(!job.output().exists());
}

#[test]
fn what_is_wrong_has_the_status_of_a_run() {
    assert_says(&run(["data", "preview"]).failure(2), &["`model.path` is not set"]);
    let preview = |job: Job| job.run_with(&["data", "preview"]);
    assert_says(&preview(Job::new().set("data", "tiger")).failure(3), &["there is no data plugin `tiger`"]);
    assert_says(&preview(Job::new().set("data.train", "nowhere.jsonl")).failure(4), &["nowhere.jsonl"]);
    assert_says(&Job::new().run_with(&["data", "preview", "--row", "999"]).failure(2), &["there is no row 999"]);
    let failure = Job::new().run_with(&["data", "preview", "--split", "eval"]).failure(2);
    assert_says(&failure, &["there are no rows for evaluation", "data.eval_split"]);
}

#[test]
fn keys_set_before_and_after_the_subcommand_add_up() {
    let job = over(&[json!({ "prompt": "a ", "completion": "b" })]);
    let (rows, totals) = preview(&job, &["--set", "trainer.batch_size=3"]);
    assert_eq!((&rows[0]["text"], &totals["batch_size"]), (&json!("<s>a b</s>"), &json!(3)));
}

#[test]
fn packed_rows_are_numbered_and_counted_as_they_are_trained() {
    let job = Job::new().set("trainer.packing", "best_fit").set("data.shuffle", true);
    let (rows, totals) = preview(&job, &["--rows", "1000"]);
    assert_eq!(rows.len(), 160);
    let mut filled = BTreeMap::<u64, u64>::new();
    for row in &rows {
        let packed_row = row["packed_row"].as_u64().expect("a number");
        *filled.entry(packed_row).or_default() += row["tokens"].as_array().expect("tokens").len() as u64;
    }
    assert_eq!(totals["packed_rows"].as_u64(), Some(filled.len() as u64));
    assert_eq!(filled.keys().copied().collect::<Vec<_>>(), (1..=filled.len() as u64).collect::<Vec<_>>());
    assert!(filled.values().all(|&tokens| tokens <= 64), "{filled:?}");
    let (_, plain) = preview(&Job::new(), &["--rows", "0"]);
    assert!(totals["padding_share"].as_f64() < plain["padding_share"].as_f64(), "{totals} {plain}");
    assert!(plain.get("packed_rows").is_none());
    let shown = text(&job, &["--rows", "1"]);
    assert!(shown.contains(", packed row 1  ") && shown.contains("packed    into "), "{shown}");
    let run = job.run().success();
    assert_eq!(job.updates().len() as u64, totals["updates"].as_u64().expect("updates"), "{}", run.stderr);
}
