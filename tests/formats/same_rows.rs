//! The same rows in any format are the same training run.

use std::fs;

use mdt_tests::{Job, assert_says, root};
use serde_json::{Value, json};

use crate::written::{FORMS, alpaca, array, gzip, lines, messages, over, pairs, preview, prompt_completion, sharegpt};

/// Three updates and what they come to: every line of the metrics that is not a measurement, and the weights.
fn trained(job: &Job) -> (Vec<Value>, Vec<u8>) {
    job.run().success();
    assert_eq!(job.updates().len(), 3);
    (job.unmeasured(), job.final_weights())
}

#[test]
fn every_format_gives_the_losses_and_the_weights_of_every_other() {
    let pairs = pairs(24);
    let expected = trained(&over("train.jsonl", lines(&pairs.iter().map(messages).collect::<Vec<_>>())));
    for (name, form) in FORMS {
        let rows: Vec<Value> = pairs.iter().map(form).collect();
        for (file, content) in [
            ("train.jsonl", lines(&rows)),
            ("train.json", array(&rows)),
            ("train.jsonl.gz", gzip(&lines(&rows))),
            ("train.json.gz", gzip(&array(&rows))),
        ] {
            // Named, or found out from the columns.
            let format = if file.ends_with("gz") { "auto" } else { name };
            assert!(trained(&over(file, content).set("data.format", format)) == expected, "{name} in {file}");
        }
    }
}

#[test]
fn compressed_files_directories_patterns_and_tables_train_as_the_same_rows_on_lines() {
    let pairs = pairs(24);
    let pairs_of =
        |range: std::ops::Range<usize>| lines(&pairs[range].iter().map(prompt_completion).collect::<Vec<_>>());
    let fixture = fs::read_to_string(root().join("tests/fixtures/training/train.jsonl")).expect("the fixture");
    let first: String = fixture.lines().take(24).map(|line| format!("{line}\n")).collect();
    let expected = trained(&over("train.jsonl", first));
    for kind in ["gz", "zst", "bz2", "xz"] {
        let file = root().join(format!("tests/fixtures/data/train.jsonl.{kind}"));
        assert!(trained(&Job::new().set("data.train", file.display())) == expected, "{kind}");
    }
    let expected = trained(&over("train.jsonl", pairs_of(0..24)));
    let table = |separator: &str| {
        let cell = |text: String| format!("\"{}\"", text.replace('"', "\"\""));
        let row = |(prompt, completion): &(String, String)| {
            format!("{}{separator}{}\r\n", cell(completion.clone()), cell(format!("{prompt}\n")))
        };
        format!("completion{separator}prompt\r\n") + &pairs.iter().map(row).collect::<String>()
    };
    assert!(trained(&over("train.csv", table(","))) == expected);
    assert!(trained(&over("train.tsv.gz", gzip(table("\t").as_bytes()))) == expected);

    let job = Job::new();
    for (name, range) in [("a.jsonl", 0..7), ("b.jsonl", 7..24)] {
        job.file(&format!("rows/{name}"), pairs_of(range));
    }
    let place = job.directory().display().to_string();
    assert!(trained(&job.set("data.train", format!("{place}/rows"))) == expected);
    let job = Job::new();
    job.file("1/train-0.jsonl", pairs_of(0..7));
    job.file("2/train-1.jsonl", pairs_of(7..24));
    let place = job.directory().display().to_string();
    assert!(trained(&job.set("data.train", format!("{place}/*/train-*.jsonl"))) == expected);
}

#[test]
fn a_directory_of_mlx_lm_has_rows_to_train_and_to_evaluate() {
    let pairs = pairs(24);
    let job = Job::new();
    let text = |range: std::ops::Range<usize>| lines(&pairs[range].iter().map(messages).collect::<Vec<_>>());
    for (name, range) in [("train", 0..16), ("valid", 16..20), ("test", 20..24)] {
        job.file(&format!("data/{name}.jsonl"), text(range));
    }
    let place = job.directory().join("data").display().to_string();
    let job = job.set("data.train", &place);
    assert_says(&job.run().success().stderr, &["data     16 rows", "held out 4 rows"]);
    let weighted = Job::new().set("trainer.max_steps", 2);
    let other = weighted.file("other.jsonl", text(0..4)).display().to_string();
    let train = format!("[{{ path = {place:?}, weight = 3 }}, {{ path = {other:?}, weight = 1 }}]");
    assert_says(&weighted.set("data.train", train).run().success().stderr, &["3 × ", "train.jsonl + 1 × "]);
}

#[test]
fn a_prompt_and_a_completion_in_turns_and_text_of_a_template_are_what_they_would_be_written_out() {
    let pairs = pairs(8);
    let expected = preview(&over("train.jsonl", lines(&pairs.iter().map(messages).collect::<Vec<_>>())));
    let turns = |(question, answer): &(String, String)| json!({"prompt": [{"role": "user", "content": question}], "completion": [{"role": "assistant", "content": answer}]});
    assert!(preview(&over("train.jsonl", lines(&pairs.iter().map(turns).collect::<Vec<_>>()))) == expected);

    let text = |(question, answer): &(String, String)| json!({"text": format!("{question}: {answer}\n{{}}")});
    let expected = preview(&over("train.jsonl", lines(&pairs.iter().map(text).collect::<Vec<_>>())));
    let columns = |(question, answer): &(String, String)| json!({"q": question, "a": {"text": answer}});
    let job = over("train.jsonl", lines(&pairs.iter().map(columns).collect::<Vec<_>>()));
    let job = job.set("data.text", "{q}: {a.text}\n{{}}");
    assert!(preview(&job) == expected);
    let failure = job.run_with(&["--set", "data.text={q} {b}"]).failure(4);
    assert_says(&failure, &["the row has no `b`, which `data.text` names", "keys found q, a", "line 1"]);
    assert_says(&job.run_with(&["--set", "data.text={q"]).failure(2), &["data.text has a { without a }"]);
}

#[test]
fn a_file_may_mix_formats_and_files_may_follow_one_another() {
    let pairs = pairs(24);
    let expected = trained(&over("train.jsonl", lines(&pairs.iter().map(messages).collect::<Vec<_>>())));
    let mixed: Vec<Value> = pairs.iter().zip(FORMS.iter().cycle()).map(|(pair, (_, form))| form(pair)).collect();
    assert!(trained(&over("train.json", array(&mixed))) == expected);

    let job = Job::new();
    let first = job.file("a.json", array(&pairs[..10].iter().map(alpaca).collect::<Vec<_>>()));
    let second = job.file("b.jsonl.gz", gzip(&lines(&pairs[10..].iter().map(sharegpt).collect::<Vec<_>>())));
    let sources = format!("[{:?}, {:?}]", first.display().to_string(), second.display().to_string());
    assert!(trained(&job.set("data.train", sources)) == expected);
}

#[test]
fn a_job_continues_on_the_same_rows_in_another_format() {
    let pairs = pairs(24);
    let job = over("train.jsonl", lines(&pairs.iter().map(messages).collect::<Vec<_>>()))
        .set("checkpoint.save_steps", 1)
        .set("checkpoint.keep", 0);
    let expected = trained(&job);
    fs::remove_dir_all(job.checkpoint(3)).expect("the last checkpoint");
    fs::remove_dir_all(job.output().join("final")).expect("the trained model");
    let other = job.file("train.json.gz", gzip(&array(&pairs.iter().map(alpaca).collect::<Vec<_>>())));
    job.run_with(&["--set", &format!("data.train={}", other.display())]).success();
    assert!((job.unmeasured(), job.final_weights()) == expected);

    // Other rows are other data, in whatever format.
    fs::remove_dir_all(job.checkpoint(3)).expect("the last checkpoint");
    let fewer = job.file("fewer.json", array(&pairs[1..].iter().map(alpaca).collect::<Vec<_>>()));
    let failure = job.run_with(&["--set", &format!("data.train={}", fewer.display())]).failure(2);
    assert_says(&failure, &["the training data has changed since the checkpoint was written"]);
}

#[test]
fn a_conversation_with_tools_is_the_same_in_both_forms() {
    let tools = json!([{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]);
    let call = |place: &str| json!({"name": "get_weather", "arguments": {"place": place, "days": 1}});
    let wrapped = |place: &str| json!({"type": "function", "function": call(place)});
    let as_text = json!({"type": "function", "function": {
        "name": "get_weather", "arguments": "{\"place\": \"Rome\",\"days\":1}"
    }});
    let messages = json!({"tools": tools, "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Is it warm?"},
        {"role": "assistant", "content": null, "tool_calls": [wrapped("Paris"), as_text]},
        {"role": "tool", "content": "21"},
        {"role": "tool", "content": "29"},
        {"role": "assistant", "content": "Yes."},
    ]});
    let sharegpt = json!({"tools": tools.to_string(), "system": "Be brief.", "conversations": [
        {"from": "human", "value": "Is it warm?"},
        {"from": "function_call", "value": json!([call("Paris"), call("Rome")]).to_string()},
        {"from": "observation", "value": "21"},
        {"from": "observation", "value": "29"},
        {"from": "gpt", "value": "Yes."},
    ]});
    let qwen = root().join("tests/fixtures/chat/qwen");
    let seen = |row: &Value| {
        let job = Job::new().tiny_llama(&qwen, 320).set("trainer.max_seq_len", 512);
        let file = job.file("train.jsonl", lines(std::slice::from_ref(row)));
        preview(&job.set("data.train", file.display())).0
    };
    let rows = seen(&messages);
    assert_eq!(rows.len(), 1);
    assert_eq!(seen(&sharegpt), rows);
}
