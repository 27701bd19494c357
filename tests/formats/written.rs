//! Rows written in the formats that data files come in.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use mdt_tests::{Job, root};
use serde_json::{Value, json};

/// A question and its answer.
pub type Pair = (String, String);

/// One row for each line.
pub fn lines(rows: &[Value]) -> Vec<u8> {
    rows.iter().map(|row| format!("{row}\n")).collect::<String>().into_bytes()
}

/// All rows in one array, spread over lines as tools write it.
pub fn array(rows: &[Value]) -> Vec<u8> {
    serde_json::to_vec_pretty(rows).expect("JSON")
}

pub fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).expect("memory");
    encoder.finish().expect("memory")
}

/// The first questions and answers of the training fixture.
pub fn pairs(count: usize) -> Vec<Pair> {
    let text = std::fs::read_to_string(root().join("tests/fixtures/training/train.jsonl")).expect("the fixture");
    let pair = |line: &str| {
        let row: Value = serde_json::from_str(line).expect("JSON");
        let text = |key: &str| row[key].as_str().expect("text").trim_end_matches('\n').to_owned();
        (text("prompt"), text("completion"))
    };
    text.lines().take(count).map(pair).collect()
}

/// A question and its answer as a row of each format. The fixture's chat template ends a question with a newline.
pub fn messages((question, answer): &Pair) -> Value {
    json!({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
}

pub fn prompt_completion((question, answer): &Pair) -> Value {
    json!({"prompt": format!("{question}\n"), "completion": answer})
}

pub fn sharegpt((question, answer): &Pair) -> Value {
    json!({"id": 1, "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]})
}

pub fn alpaca((question, answer): &Pair) -> Value {
    json!({"instruction": question, "input": "", "output": answer})
}

/// Makes one row of a format of a question and its answer.
pub type Form = fn(&Pair) -> Value;

pub const FORMS: [(&str, Form); 4] =
    [("messages", messages), ("prompt_completion", prompt_completion), ("sharegpt", sharegpt), ("alpaca", alpaca)];

/// The fixture's job on a file with this content.
pub fn over(name: &str, content: impl AsRef<[u8]>) -> Job {
    let job = Job::new();
    let file = job.file(name, content);
    job.set("data.train", file.display())
}

/// Rows as training sees them, token ids and marks, and their totals.
pub fn preview(job: &Job) -> (Vec<(Value, Value)>, Value) {
    let run = job.run_with(&["data", "preview", "--json", "--rows", "1000"]).success();
    let mut lines: Vec<Value> = run.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let totals = lines.pop().expect("a line of totals")["totals"].take();
    let rows = lines.into_iter().map(|mut row| (row["tokens"].take(), row["supervised"].take()));
    (rows.collect(), totals)
}
