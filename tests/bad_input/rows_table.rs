//! What the user reads about rows and files that cannot be used: a line for each in `tests/fixtures/data/bad.txt`, which
//! `UPDATE_GOLDEN=1` writes anew.

use std::fs;

use mdt_tests::{Job, root};

const ROW: &str = r#"{"prompt": "ab", "completion": "c"}"#;

/// Second lines of a file of three.
const LINES: [(&str, &str); 53] = [
    ("a string that does not end", r#"{"prompt": "a, "completion": "b"}"#),
    ("no comma", r#"{"prompt": "a" "completion": "b"}"#),
    ("a comma too many", r#"{"prompt": "a", "completion": "b",}"#),
    ("no colon", r#"{"prompt" "a", "completion": "b"}"#),
    ("single quotes", "{'prompt': 'a', 'completion': 'b'}"),
    ("no quotes", "{prompt: \"a\", completion: \"b\"}"),
    ("NaN", r#"{"prompt": "a", "completion": "b", "score": NaN}"#),
    ("a number that begins with 0", r#"{"prompt": "a", "completion": "b", "score": 01}"#),
    ("a number that is too large", r#"{"prompt": "a", "completion": "b", "score": 1e999}"#),
    ("Python's None", r#"{"prompt": "a", "completion": "b", "score": None}"#),
    ("a tab in a string", "{\"prompt\": \"a\tb\", \"completion\": \"b\"}"),
    ("half of a surrogate pair", r#"{"prompt": "\ud800", "completion": "b"}"#),
    ("an unknown escape", r#"{"prompt": "\q", "completion": "b"}"#),
    ("a row that is cut off", r#"{"prompt": "a", "compl"#),
    ("two rows in a line", r#"{"prompt": "a", "completion": "b"}{"prompt": "a", "completion": "b"}"#),
    ("a row over several lines", "{\n\"prompt\": \"a\", \"completion\": \"b\"\n}"),
    ("an array", r#"["a", "b"]"#),
    ("a string", r#""a""#),
    ("a number", "3"),
    ("null", "null"),
    ("a comment", "// a comment"),
    ("a byte order mark", "\u{feff}{\"prompt\": \"a\", \"completion\": \"b\"}"),
    ("a key twice", r#"{"prompt": "a", "prompt": "b", "completion": "c"}"#),
    ("a key twice inside", r#"{"prompt": "a", "completion": "c", "x": {"y": 1, "y": 2}}"#),
    ("no columns", "{}"),
    ("unknown columns", r#"{"question": "a", "answer": "b"}"#),
    ("a prompt without an answer", r#"{"prompt": "a"}"#),
    ("a misspelt column", r#"{"prompt": "a", "completoin": "b"}"#),
    ("a completion that is a number", r#"{"prompt": "a", "completion": 3}"#),
    ("a completion that is null", r#"{"prompt": "a", "completion": null}"#),
    ("a completion that is a list", r#"{"prompt": "a", "completion": ["b"]}"#),
    (
        "a prompt that is a conversation, and a completion that is not",
        r#"{"prompt": [{"role": "user", "content": "a"}], "completion": "b"}"#,
    ),
    ("text that is a number", r#"{"text": 3}"#),
    ("no turns", r#"{"messages": []}"#),
    ("messages that are text", r#"{"messages": "Hi"}"#),
    ("a turn that is text", r#"{"messages": ["Hi"]}"#),
    ("a turn without a role", r#"{"messages": [{"content": "Hi"}]}"#),
    ("a turn of ShareGPT among messages", r#"{"messages": [{"from": "human", "value": "Hi"}]}"#),
    ("a role of ShareGPT", r#"{"messages": [{"role": "gpt", "content": "Hi"}]}"#),
    ("a misspelt role", r#"{"messages": [{"role": "asistant", "content": "Hi"}]}"#),
    ("a role that is a number", r#"{"messages": [{"role": 1, "content": "Hi"}]}"#),
    ("a turn without content", r#"{"messages": [{"role": "user"}]}"#),
    ("content that is a number", r#"{"messages": [{"role": "user", "content": 3}]}"#),
    ("calls that are no list", r#"{"messages": [{"role": "assistant", "tool_calls": {"name": "f"}}]}"#),
    ("a call without a name", r#"{"messages": [{"role": "assistant", "tool_calls": [{"arguments": {}}]}]}"#),
    ("tools that are no list", r#"{"messages": [{"role": "user", "content": "a"}], "tools": {"name": "f"}}"#),
    ("tools that are no JSON", r#"{"messages": [{"role": "user", "content": "a"}], "tools": "none"}"#),
    (
        "template variables that are a list",
        r#"{"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": []}"#,
    ),
    ("a turn of ShareGPT without a speaker", r#"{"conversations": [{"value": "Hi"}]}"#),
    ("an unknown speaker", r#"{"conversations": [{"from": "cat", "value": "Meow"}]}"#),
    ("two speakers of a turn", r#"{"conversations": [{"from": "human", "role": "assistant", "value": "Hi"}]}"#),
    ("an instruction without its output", r#"{"instruction": "a", "input": "b"}"#),
    (
        "a system message twice",
        r#"{"system": "a", "conversations": [{"from": "system", "value": "b"}, {"from": "gpt", "value": "c"}]}"#,
    ),
];

/// Whole files, each with its name.
fn files() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let compressed =
        |kind: &str| fs::read(root().join(format!("tests/fixtures/data/train.jsonl.{kind}"))).expect("a fixture");
    let cut = |kind: &str| compressed(kind)[..300].to_vec();
    let flipped = |kind: &str| {
        let mut bytes = compressed(kind);
        bytes[120] ^= 0x10;
        bytes
    };
    let text = |text: &str| text.as_bytes().to_vec();
    let table = |name: &str| fs::read(root().join("tests/fixtures/tables").join(name)).expect("a fixture");
    let short = |name: &str, missing: usize| {
        let mut bytes = table(name);
        bytes.truncate(bytes.len() - missing);
        bytes
    };
    let wrong = |name: &str, place: usize| {
        let mut bytes = table(name);
        bytes[place] ^= 0xff;
        bytes
    };
    vec![
        ("no rows", "a.jsonl", text("")),
        ("blank lines only", "a.jsonl", text("\n \n")),
        ("an empty array", "a.json", text("[]")),
        ("an array that is not closed", "a.json", text(&format!("[{ROW}"))),
        ("an array that is cut off", "a.json", text(&format!("[{ROW}, {{\"prom"))),
        ("an array without a row between commas", "a.json", text(&format!("[{ROW}, , {ROW}]"))),
        ("an array with something behind it", "a.json", text(&format!("[{ROW}]\n{ROW}"))),
        ("an array in an array", "a.json", text(&format!("[[{ROW}]]"))),
        ("one object that is no row", "a.json", text(&format!("{{\"data\": [{ROW}]}}"))),
        ("bytes that are no UTF-8", "a.jsonl", b"{\"text\": \"caf\xe9\"}".to_vec()),
        ("UTF-16", "a.jsonl", b"\xff\xfe{\0".to_vec()),
        ("a zip archive", "a.jsonl", b"PK\x03\x04".to_vec()),
        ("lz4", "a.jsonl.lz4", b"\x04\x22\x4d\x18".to_vec()),
        ("a Parquet file with another name", "a.jsonl", b"PAR1\x15\x04".to_vec()),
        ("an Arrow file with another name", "a.jsonl", b"ARROW1\0\0".to_vec()),
        ("gzip that is cut off", "a.jsonl.gz", cut("gz")),
        ("zstd that is cut off", "a.jsonl.zst", cut("zst")),
        ("bzip2 that is cut off", "a.jsonl.bz2", cut("bz2")),
        ("xz that is cut off", "a.jsonl.xz", cut("xz")),
        ("gzip with a wrong bit", "a.jsonl.gz", flipped("gz")),
        ("zstd with a wrong bit", "a.jsonl.zst", flipped("zst")),
        ("bzip2 with a wrong bit", "a.jsonl.bz2", flipped("bz2")),
        ("xz with a wrong bit", "a.jsonl.xz", flipped("xz")),
        ("a table with a header only", "a.csv", text("prompt,completion\n")),
        ("a row of a table with a cell too few", "a.csv", text("prompt,completion\na,b\nc\n")),
        ("a row of a table with a cell too many", "a.csv", text("prompt,completion\na,b,c\n")),
        ("a column of a table twice", "a.csv", text("prompt,prompt\na,b\n")),
        ("a table without known columns", "a.csv", text("question,answer\na,b\n")),
        ("a table that is no UTF-8", "a.tsv", b"text\ncaf\xe9\n".to_vec()),
        ("an empty Parquet file", "a.parquet", text("")),
        ("a Parquet file that is text", "a.parquet", text(ROW)),
        ("a Parquet file that is something else", "a.parquet", text("prompt,completion\n")),
        ("a Parquet file that is compressed as a whole", "a.parquet", b"\x1f\x8b\x08\0".to_vec()),
        ("a Parquet file that is cut off", "a.parquet", short("pairs.snappy.parquet", 1000)),
        ("a Parquet file without its last byte", "a.parquet", short("pairs.snappy.parquet", 1)),
        ("a Parquet file with wrong bytes in a page", "a.parquet", wrong("pairs.zstd.parquet", 60)),
        ("a Parquet file with wrong bytes in its metadata", "a.parquet", wrong("pairs.snappy.parquet", 2000)),
        ("a Parquet file of other columns", "a.parquet", table("types.parquet")),
        ("an Arrow file that is cut off", "a.arrow", short("pairs.file.arrow", 1000)),
        ("an Arrow file with wrong bytes", "a.arrow", wrong("pairs.file.arrow", 600)),
        ("an Arrow stream that is cut off", "a.arrow", short("pairs.stream.arrow", 1000)),
        ("an Arrow stream without the mark at its end", "a.arrow", short("pairs.stream.arrow", 8)),
        ("an Arrow stream with wrong bytes", "a.arrow", wrong("pairs.stream.arrow", 100)),
        ("Feather of version 1", "a.feather", text("FEA1")),
    ]
}

/// The error of reading a file, on one line. Where it is on this machine is left out.
fn said(name: &str, content: Vec<u8>) -> String {
    let job = Job::new();
    let file = job.file(name, content).display().to_string();
    let run = job.set("data.train", &file).run_with(&["data", "preview", "--rows", "0"]);
    let lines = run.failure(4).replace(&file, "FILE");
    lines.lines().map(str::trim).collect::<Vec<_>>().join("; ")
}

#[test]
fn what_is_said_of_each_bad_row_and_file_is_what_the_table_has() {
    let lines = LINES.iter().map(|(case, line)| (*case, "a.jsonl", format!("{ROW}\n{line}\n{ROW}\n").into_bytes()));
    let said = lines.chain(files()).map(|(case, name, content)| format!("{case} | {}\n", said(name, content)));
    let said: String = said.collect();
    let path = root().join("tests/fixtures/data/bad.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &said).expect("the table");
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    for (said, expected) in said.lines().zip(expected.lines()) {
        assert_eq!(said, expected);
    }
    assert_eq!(said.lines().count(), expected.lines().count());
}
