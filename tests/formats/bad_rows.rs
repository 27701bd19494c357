//! A bad row is named by its file, and by its line or its number, in every format.

use mdt_tests::assert_says;
use serde_json::{Value, json};

use crate::written::{FORMS, array, gzip, lines, over, pairs};

/// The error of a run on this file; it names the file.
#[track_caller]
fn failure(name: &str, content: impl AsRef<[u8]>, parts: &[&str]) -> String {
    let job = over(name, content);
    let failure = job.run().failure(4);
    assert_says(&failure, &[&job.directory().join(name).display().to_string()]);
    assert_says(&failure, parts);
    assert!(!job.output().exists(), "nothing is written before everything is checked");
    failure
}

#[test]
fn a_row_that_cannot_be_read_is_named_in_every_format() {
    for (bad, says) in [
        (json!({"messages": [{"role": "user", "content": "a"}, {"role": "gpt", "content": "b"}]}), "`messages[1]`"),
        (json!({"prompt": "a", "completion": ["b"]}), "`completion` must be a string, not an array"),
        (json!({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt"}]}), "`conversations[1]` has no"),
        (json!({"instruction": "a", "input": "b"}), "the row has no `output`"),
        (json!({"question": "a", "answer": "b"}), "the row has none of"),
    ] {
        for (_, form) in FORMS {
            let mut rows: Vec<Value> = pairs(3).iter().map(form).collect();
            rows[1] = bad.clone();
            failure("train.jsonl", lines(&rows), &[says, "line 2"]);
        }
        let mut rows: Vec<Value> = pairs(3).iter().map(FORMS[0].1).collect();
        rows[1] = bad;
        failure("train.jsonl.gz", gzip(&lines(&rows)), &[says, "line 2"]);
        failure("train.json", array(&rows), &[says, "row 2"]);
        failure("train.json.gz", gzip(&array(&rows)), &[says, "row 2"]);
    }
}

#[test]
fn a_row_of_another_format_than_the_named_one_is_named() {
    for (format, _) in FORMS {
        for (other, form) in FORMS {
            if other == format {
                continue;
            }
            let rows: Vec<Value> = pairs(2).iter().map(form).collect();
            let job = over("train.jsonl", lines(&rows)).set("data.format", format);
            assert_says(&job.run().failure(4), &["the row has no", "keys found", "train.jsonl", "line 1"]);
        }
    }
}

#[test]
fn a_compressed_file_that_is_cut_off_is_an_error_and_not_a_shorter_one() {
    let rows: Vec<Value> = pairs(24).iter().map(FORMS[0].1).collect();
    for (name, text) in [("train.jsonl.gz", lines(&rows)), ("train.json.gz", array(&rows))] {
        let whole = gzip(&text);
        // In the middle, in the checksum behind the last row, and before the first.
        for length in [whole.len() / 2, whole.len() - 5, 12] {
            failure(name, &whole[..length], &["cannot be read", "gzip -t"]);
        }
        let mut damaged = whole.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0xff;
        failure(name, &damaged, &[]);
    }
}

#[test]
fn an_array_that_is_cut_off_is_an_error_and_not_a_shorter_one() {
    let rows: Vec<Value> = pairs(4).iter().map(FORMS[0].1).collect();
    let whole = String::from_utf8(array(&rows)).expect("text");
    let cut = whole.trim_end().trim_end_matches(']');
    failure("train.json", cut, &["the JSON array is not closed", "row 4"]);
    failure("train.json", format!("{whole}\n{{}}"), &["something follows the JSON array"]);
}
