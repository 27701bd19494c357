//! `mdt-host generate`: answers that repeat, and that are right once a model has learned them.

use std::path::Path;

use mdt_tests::{Job, Run, run};
use serde_json::Value;

fn generate(model: &Path, arguments: &[&str]) -> Run {
    let model = model.display().to_string();
    run(["generate", "--model", &model].into_iter().chain(arguments.iter().copied())).success()
}

/// A model that has seen four rows of the fixture many times.
fn memorised() -> Job {
    let job = Job::new()
        .rows(0..4)
        .set("trainer.gradient_accumulation_steps", 1)
        .set("trainer.max_steps", 150)
        .set("optimizer.learning_rate", 1e-2);
    job.run().success();
    job
}

#[test]
fn a_model_that_memorised_four_rows_answers_them_exactly() {
    let job = memorised();
    let (model, rows) = (job.output().join("final"), job.directory().join("train.jsonl"));
    let rows = rows.display().to_string();

    let run = generate(&model, &["--data", &rows, "--json"]);
    let answers: Value = serde_json::from_str(&run.stdout).expect("JSON on standard output");
    assert_eq!(answers["exact_match"], 1.0, "{}", run.stdout);
    let learned = std::fs::read_to_string(&rows).expect("the rows");
    let answers = answers["rows"].as_array().expect("a list");
    assert_eq!(answers.len(), 4);
    for (answer, row) in answers.iter().zip(learned.lines()) {
        let row: Value = serde_json::from_str(row).expect("JSON");
        assert_eq!((&answer["prompt"], &answer["answer"]), (&row["prompt"], &row["completion"]));
        assert_eq!(answer["answer"], answer["expected"]);
    }

    let run = generate(&model, &["--data", &rows]);
    assert_eq!(run.stdout.lines().last(), Some("exact match: 4 of 4 (100.0 %)"));
    let row: Value = serde_json::from_str(learned.lines().next().expect("a row")).expect("JSON");
    // The model has a chat template that renders a message as the prompt of these rows.
    let prompt = row["prompt"].as_str().expect("text").trim_end();
    let run = generate(&model, &["--prompt", prompt]);
    assert_eq!(run.stdout.trim_end(), row["completion"].as_str().expect("text"));
}

#[test]
fn exact_match_is_the_part_of_the_rows_that_are_right() {
    let job = memorised();
    let text = std::fs::read_to_string(job.directory().join("train.jsonl")).expect("the rows");
    let mut rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    rows[1]["completion"] = "something else".into();
    let rows: Vec<_> = rows.iter().map(Value::to_string).collect();
    let data = job.file("other.jsonl", rows.join("\n")).display().to_string();
    let model = job.output().join("final");
    let exact_match = |arguments: &[&str]| {
        let run = generate(&model, &[&["--data", &data, "--json"], arguments].concat());
        serde_json::from_str::<Value>(&run.stdout).expect("JSON")["exact_match"].as_f64().expect("a number")
    };
    assert_eq!(exact_match(&[]), 0.75);
    assert_eq!(exact_match(&["--limit", "2"]), 0.5);
}

#[test]
fn answers_repeat_and_end_at_the_longest_length() {
    let model = mdt_tests::root().join("tests/fixtures/training/model");
    let answer = |count: &str| generate(&model, &["--prompt", "Shout abc", "--max-tokens", count]).stdout;
    let long = answer("20");
    assert_eq!(answer("20"), long);
    assert!(long.starts_with(answer("5").trim_end_matches('\n')), "a shorter answer is the beginning of the longer");
}

#[test]
fn rows_without_an_answer_are_not_compared() {
    let model = mdt_tests::root().join("tests/fixtures/training/model");
    let job = Job::new();
    let answered = r#"{"prompt": "a", "completion": "b"}"#;
    let asked = r#"{"messages": [{"role": "user", "content": "a"}]}"#;
    let run = |arguments: &[&str]| generate(&model, &[arguments, &["--max-tokens", "2"]].concat()).stdout;
    let json =
        |arguments: &[&str]| serde_json::from_str::<Value>(&run(&[arguments, &["--json"]].concat())).expect("JSON");

    let one = json(&["--prompt", "a"]);
    assert_eq!((&one["exact_match"], &one["rows"][0]["expected"]), (&Value::Null, &Value::Null), "{one}");

    let rows = job.file("asked.jsonl", format!("{asked}\n{asked}")).display().to_string();
    assert!(run(&["--data", &rows]).ends_with("exact match: no row has an answer to compare with\n"));
    assert_eq!(json(&["--data", &rows])["exact_match"], Value::Null);

    let rows = job.file("mixed.jsonl", format!("{asked}\n{answered}\n")).display().to_string();
    let shown = run(&["--data", &rows]);
    assert!(shown.ends_with("exact match: 0 of 1 (0.0 %); 1 row has no answer to compare with\n"), "{shown}");
    let mixed = json(&["--data", &rows]);
    assert_eq!((&mixed["exact_match"], &mixed["compared"]), (&0.0.into(), &1.into()));
}
