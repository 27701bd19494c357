//! Data that cannot be used: status 4, with file, line and column; rows that cannot be trained are counted and named.

use mdt_tests::{Job, assert_says};

const ROW: &str = "{\"prompt\": \"ab\", \"completion\": \"c\"}\n";

/// A job on this data, and where the data is.
fn job(data: impl AsRef<[u8]>) -> (Job, String) {
    let job = Job::new().set("trainer.max_steps", 1);
    let file = job.file("data.jsonl", data).display().to_string();
    (job.set("data.train", &file), file)
}

/// A row whose prompt alone is longer than `trainer.max_seq_len`.
fn long_row() -> String {
    format!("{{\"prompt\": \"{}\", \"completion\": \"c\"}}\n", "a".repeat(100))
}

#[test]
fn a_line_that_is_no_json_is_named_with_line_column_and_excerpt() {
    let (job, file) = job(format!("{ROW}\n{ROW}{{\"prompt\": \"ä\", \"completion\" \"c\"}}\n{ROW}"));
    let failure = job.run().failure(4);
    // The blank line counts, and a column is a character, not a byte.
    assert_says(&failure, &["not valid JSON", &file, "line 4", "column 30", "\"completion\" \"c\"", "data jsonl"]);
    assert!(!job.output().exists(), "nothing is written before everything is checked");
}

#[test]
fn what_is_no_row_is_an_error_that_says_so() {
    for (line, parts) in [
        ("{\"prompt\": \"a\", \"compl", &["not valid JSON", "line 2", "a whole object on each line"][..]),
        ("[1]", &["a line must be a JSON object", "line 2"]),
        (
            "{\"question\": \"a\", \"answer\": \"b\"}",
            &[
                "none of `messages`, `prompt` + `completion`, `conversations`, `instruction` + `output`, `chosen` + `rejected`, `text`",
                "keys found question, answer",
                "line 2",
                "data.fields = { prompt = \"question\", completion = \"answer\" }",
            ],
        ),
        ("{\"prompt\": \"a\", \"answer\": \"b\"}", &["no `completion`", "data.fields = { completion = \"answer\" }"]),
        ("{\"prompt\": \"a\", \"completion\": 3}", &["`completion` must be a string, not a number", "line 2"]),
        ("{\"messages\": []}", &["line 2"]),
        ("{\"messages\": [{\"role\": \"user\"}]}", &["line 2", "content"]),
    ] {
        let (job, file) = job(format!("{ROW}{line}\n"));
        let failure = job.run().failure(4);
        assert_says(&failure, &[&file]);
        assert_says(&failure, parts);
    }
    let (job, _) = job([ROW.as_bytes(), b"{\"prompt\": \"\xff\"}\n"].concat());
    assert_says(&job.run().failure(4), &["not valid UTF-8: byte 0xff", "line 2", "column 13"]);
}

#[test]
fn a_mapping_that_hides_the_rows_own_names_is_to_be_removed() {
    let (job, _) = job(ROW);
    let failure = job.set("data.fields.prompt", "question").run().failure(4);
    assert_says(&failure, &["the row has no `question`", "keys found prompt, completion", "remove that mapping"]);
}

#[test]
fn data_that_is_not_there_or_empty_is_an_error() {
    for empty in ["", "\n \n"] {
        let (job, file) = job(empty);
        assert_says(&job.run().failure(4), &["the data file has no rows", &file]);
    }
    let failure = Job::new().set("data.train", "tests/fixtures/training/trian.jsonl").run().failure(4);
    assert_says(&failure, &["does not exist", "trian.jsonl", "there is tests/fixtures/training/train.jsonl"]);
    let failure = Job::new().set("data.eval", "tests/fixtures/training/trian.jsonl").run().failure(4);
    assert_says(&failure, &["does not exist", "trian.jsonl"]);
    let job = Job::new();
    let directory = job.file("notes/a.txt", "a").with_file_name("");
    assert_says(
        &job.set("data.train", directory.display()).run().failure(4),
        &["is a directory, not a file", "there is no file of rows in it"],
    );
}

#[test]
fn rows_with_nothing_to_train_are_dropped_counted_and_named() {
    let long = long_row();
    let (job, file) = job(format!("{ROW}{long}{ROW}{long}"));
    let run = job.run().success();
    assert_says(
        &run.stderr,
        &[&format!("2 rows, 10 tokens, 4 of them trained; 2 dropped with nothing to train ({file} rows 2, 4)")],
    );
    assert_eq!(job.updates()[0]["supervised_tokens"], 4);

    let (dropped, (kept, _)) = (job, self::job(format!("{ROW}{ROW}")));
    kept.run().success();
    assert_eq!(dropped.updates()[0]["loss"], kept.updates()[0]["loss"], "a dropped row leaves no trace in the loss");
}

#[test]
fn data_with_nothing_to_train_at_all_is_an_error() {
    let (job, file) = job(long_row().repeat(3));
    let failure = job.run().failure(4);
    assert_says(
        &failure,
        &["none of the 3 rows has anything to train", &format!("{file} rows 1, 2, 3"), "max_seq_len"],
    );
}

#[test]
fn line_ends_and_a_byte_order_mark_change_nothing() {
    let (plain, _) = job(ROW.repeat(5));
    let (windows, _) = job(format!("\u{feff}{}", ROW.replace('\n', "\r\n").repeat(5)));
    plain.run().success();
    windows.run().success();
    assert!(plain.final_weights() == windows.final_weights());
}

#[test]
fn rows_in_one_array_train_as_rows_on_lines_do() {
    let (lines, _) = job(ROW.repeat(5));
    let (array, _) = job(format!("[\n{}\n]\n", [ROW.trim_end(); 5].join(",\n")));
    lines.run().success();
    array.run().success();
    assert!(lines.final_weights() == array.final_weights());

    let (job, file) = job(format!("[{},\n{{\"prompt\": \"a\"}}]", ROW.trim_end()));
    assert_says(&job.run().failure(4), &["no `completion`", &file, "row 2", "line 2"]);
}

#[test]
fn a_key_that_is_there_twice_is_named_and_neither_value_is_taken() {
    for (line, key) in [
        ("{\"prompt\": \"a\", \"completion\": \"b\", \"prompt\": \"c\"}", "prompt"),
        ("{\"prompt\": \"a\", \"completion\": \"b\", \"extra\": [{\"x\": 1, \"x\": 1}]}", "x"),
        ("{\"messages\": [{\"role\": \"user\", \"content\": \"a\", \"content\": \"b\"}]}", "content"),
    ] {
        let (job, file) = job(format!("{ROW}{line}\n"));
        let said = format!("the key \"{key}\" is there twice");
        assert_says(&job.run().failure(4), &[&said, &file, "line 2", "excerpt", "remove one of the two"]);
        let (job, file) = self::job(format!("[{ROW}, {line}]"));
        assert_says(&job.run().failure(4), &[&said, &file, "row 2"]);
    }
}

#[test]
fn compressed_files_of_other_kinds_are_called_what_they_are() {
    for (bytes, what, command) in
        [(&b"\x04\x22\x4d\x18\x64\x40"[..], "lz4", "unlz4"), (b"7z\xbc\xaf\x27\x1c\0\x04", "7z", "7z x")]
    {
        let (job, file) = job(bytes);
        assert_says(&job.run().failure(4), &[what, "not text", command, &file]);
    }
    for (bytes, command) in [
        (&b"BZh91AY&SY\x8b\xf8"[..], "bzip2 -t"),
        (b"\xfd7zXZ\0\0\x04\xe6\xd6", "xz -t"),
        (b"\x28\xb5\x2f\xfd\x04\x58", "zstd -t"),
    ] {
        let (job, file) = job(bytes);
        assert_says(&job.run().failure(4), &["damaged or cut off", command, &file]);
    }
}
