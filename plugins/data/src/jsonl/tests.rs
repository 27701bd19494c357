//! Files as they are found: any line end, any place to continue at, and everything that can be wrong with them.

use std::fs;
use std::io::Write;

use mdt_plugin_api::abi::across;
use mdt_plugin_api::serde_json::{Value, from_str, to_string, to_string_pretty};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// A directory with one data file.
struct Written {
    directory: TempDir,
}

impl Written {
    fn new(bytes: impl AsRef<[u8]>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("train.jsonl"), bytes).unwrap();
        Self { directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("train.jsonl")
    }

    fn open(&self) -> Result<Box<dyn DataSource>> {
        open(&self.path())
    }

    /// The error of opening it or of its first bad row.
    fn error(&self) -> Error {
        match self.open() {
            Ok(mut source) => source.length().and_then(|_| rest(&mut source)).unwrap_err(),
            Err(error) => error,
        }
    }
}

/// The source, as a host gets it.
fn open(path: &Path) -> Result<Box<dyn DataSource>> {
    let setup = Setup { source: path.display().to_string(), ..Setup::default() };
    across::data(Box::new(Jsonl::create(Config::default(), &setup)?))
}

/// Compressed, as two members where it is long enough.
fn gz(text: &[u8]) -> Vec<u8> {
    let (first, second) = text.split_at(text.len() / 2);
    let member = |text: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    };
    [member(first), member(second)].concat()
}

fn rest(source: &mut Box<dyn DataSource>) -> Result<Vec<Example>> {
    std::iter::from_fn(|| source.next().transpose()).collect()
}

fn context<'a>(error: &'a Error, key: &str) -> &'a str {
    error.context().iter().find(|(name, _)| name == key).map_or("", |(_, value)| value)
}

fn text(row: u64, text: &str) -> Example {
    Example::new(row).with("text", text)
}

/// A row: what it holds, and how many blank lines precede it.
fn rows() -> impl Strategy<Value = Vec<(Example, usize)>> {
    let role = prop::sample::select(vec!["system", "user", "assistant"]);
    let message = (role, any::<String>()).prop_map(|(role, content)| Message::new(role, content));
    let row = Example::default();
    let [conversation, pair, text] = [row.clone(), row.clone(), row];
    let example = prop_oneof![
        prop::collection::vec(message, 1..4).prop_map(move |turns| conversation.clone().with("messages", turns)),
        any::<(String, String)>()
            .prop_map(move |(prompt, completion)| pair.clone().with("prompt", prompt).with("completion", completion)),
        any::<(String, f64)>().prop_map(move |(own, score)| text.clone().with("text", own).with("score", score)),
    ];
    prop::collection::vec((example, 0usize..3), 1..20)
}

/// The file with these rows, and the examples that it must give.
fn file(rows: &[(Example, usize)], line_end: &str, mark: bool, last_line_ends: bool) -> (String, Vec<Example>) {
    let mut file = if mark { "\u{feff}".to_owned() } else { String::new() };
    let (mut examples, mut line) = (Vec::new(), 0);
    for (example, blank_lines) in rows {
        let row = Datum::Map(example.values.clone()).to_json();
        for _ in 0..*blank_lines {
            file.push_str("  ");
            file.push_str(line_end);
        }
        file.push_str(&row.to_string());
        file.push_str(line_end);
        line += *blank_lines as u64 + 1;
        examples.push(Example { row: line, ..example.clone() });
    }
    if !last_line_ends {
        file.truncate(file.len() - line_end.len());
    }
    (file, examples)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_written_is_read_whatever_the_line_ends(
        rows in rows(),
        line_end in prop::sample::select(vec!["\n", "\r\n"]),
        mark: bool,
        last_line_ends: bool,
    ) {
        let (file, examples) = file(&rows, line_end, mark, last_line_ends);
        let written = Written::new(file);
        let mut source = written.open().unwrap();
        prop_assert_eq!(source.length().unwrap(), Length::Rows(examples.len() as u64));
        prop_assert_eq!(rest(&mut source).unwrap(), examples);
    }

    #[test]
    fn a_restored_source_continues_where_the_state_was_taken(
        rows in rows(),
        line_end in prop::sample::select(vec!["\n", "\r\n"]),
        mark: bool,
        last_line_ends: bool,
        place: prop::sample::Index,
    ) {
        let (file, examples) = file(&rows, line_end, mark, last_line_ends);
        let written = Written::new(file);
        let place = place.index(examples.len() + 1);
        let mut source = written.open().unwrap();
        for _ in 0..place {
            source.next().unwrap().unwrap();
        }
        let state = source.state().unwrap();

        let mut restored = written.open().unwrap();
        restored.restore(&state).unwrap();
        prop_assert_eq!(restored.state().unwrap(), state.clone());
        prop_assert_eq!(restored.length().unwrap(), source.length().unwrap());
        prop_assert_eq!(&rest(&mut restored).unwrap(), &examples[place..]);

        // And from the end of the file back.
        restored.restore(&state).unwrap();
        prop_assert_eq!(&rest(&mut restored).unwrap(), &examples[place..]);
    }

    #[test]
    fn gzip_and_arrays_give_the_same_rows_from_every_place(
        rows in rows(),
        pretty: bool,
        compressed: bool,
        array: bool,
        place: prop::sample::Index,
    ) {
        let (mut text, mut examples) = file(&rows, "\n", false, true);
        if array {
            let values: Vec<Value> = text.lines().filter(|line| !line.trim().is_empty()).map(|line| from_str(line).unwrap()).collect();
            text = if pretty { to_string_pretty(&values) } else { to_string(&values) }.unwrap();
            for (example, number) in examples.iter_mut().zip(1..) {
                example.row = number;
            }
        }
        let written = Written::new(if compressed { gz(text.as_bytes()) } else { text.into_bytes() });
        let mut source = written.open().unwrap();
        prop_assert_eq!(source.length().unwrap(), Length::Rows(examples.len() as u64));
        let place = place.index(examples.len() + 1);
        for example in &examples[..place] {
            prop_assert_eq!(&source.next().unwrap().unwrap(), example);
        }
        let state = source.state().unwrap();
        let mut restored = written.open().unwrap();
        for _ in 0..2 {
            restored.restore(&state).unwrap();
            prop_assert_eq!(&rest(&mut restored).unwrap(), &examples[place..]);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), state: String, compressed: bool) {
        let written = Written::new(if compressed { gz(&bytes) } else { bytes });
        if let Ok(mut source) = written.open() {
            let _ = source.length();
            let _ = rest(&mut source);
            let _ = source.restore(&state);
        }
    }
}

#[test]
fn rows_can_be_read_in_any_order_where_the_file_can_be_entered() {
    let lines = |count: usize| -> String {
        (0..count).map(|n| format!("\n{{\"text\": \"{}\"}}\n", "ä,]".repeat(n))).collect()
    };
    let array = |count| format!(" [{}\n]\n", lines(count).replace("}\n", "},\n").trim_end().trim_end_matches(','));
    for text in [lines(100), array(100)] {
        let written = Written::new(text);
        let (mut source, mut in_order) = (written.open().unwrap(), written.open().unwrap());
        let expected = rest(&mut in_order).unwrap();
        for place in [99, 0, 31, 32, 33, 64, 1] {
            let state = source.state_of(place).unwrap().unwrap();
            source.restore(&state).unwrap();
            assert_eq!(source.next().unwrap().unwrap(), expected[place as usize]);
        }
        assert_eq!(source.state_of(100).unwrap(), None);
    }
    assert_eq!(Written::new(gz(lines(3).as_bytes())).open().unwrap().state_of(0).unwrap(), None);
}

#[test]
fn the_end_stays_the_end() {
    let mut source = Written::new("{\"text\": \"a\"}").open().unwrap();
    assert_eq!(source.next().unwrap(), Some(text(1, "a")));
    assert_eq!((source.next().unwrap(), source.next().unwrap()), (None, None));
}

#[test]
fn bad_json_names_file_line_column_and_excerpt() {
    let written = Written::new("\u{feff}{\"text\": \"a\"}\r\n\r\n{\"text\": \"ä\" \"more\": 1}\r\n");
    let error = written.error();
    assert_eq!(error.code(), ErrorCode::Input);
    assert_eq!(error.message(), "not valid JSON: expected `,` or `}`");
    assert_eq!(context(&error, "file"), written.path().display().to_string());
    assert_eq!((context(&error, "line"), context(&error, "column")), ("3", "14"));
    assert_eq!(context(&error, "excerpt"), "{\"text\": \"ä\" \"more\": 1}");
}

#[test]
fn the_excerpt_of_a_long_line_is_around_the_fault() {
    let long = format!("{{\"text\": \"{}\" oops, \"more\": \"{}\"}}", "é".repeat(1000), "è".repeat(1000));
    let error = Written::new(long).error();
    let excerpt = context(&error, "excerpt");
    assert!(excerpt.contains("oops") && excerpt.starts_with('…') && excerpt.ends_with('…'), "{excerpt}");
    assert!(excerpt.chars().count() < 70, "{excerpt}");
    assert_eq!(context(&error, "column"), "1013");
}

#[test]
fn json_that_is_not_one_object_per_line_is_told_how_to_become_it() {
    let spread = Written::new("{\n  \"text\": \"a\"\n}\n").error();
    assert!(context(&spread, "help").contains("jq -c ."), "{spread:?}");
    assert_eq!(context(&spread, "line"), "1");
}

#[test]
fn a_row_with_missing_columns_names_its_line() {
    let error = Written::new("{\"text\": \"a\"}\n\n{\"question\": \"a\", \"answer\": \"b\"}\n").error();
    assert_eq!(
        error.message(),
        "the row has none of `messages`, `prompt` + `completion`, `conversations`, `instruction` + `output`, `chosen` + `rejected`, `text`"
    );
    assert_eq!((context(&error, "line"), context(&error, "keys found")), ("3", "question, answer"));
    assert!(context(&error, "help").contains("data.fields = { prompt = \"question\", completion = \"answer\" }"));
}

#[test]
fn text_in_another_encoding_names_line_and_column() {
    let error = Written::new(b"{\"text\": \"a\"}\n{\"text\": \"caf\xe9\"}\n").error();
    assert_eq!(error.message(), "not valid UTF-8: byte 0xe9");
    assert_eq!((context(&error, "line"), context(&error, "column")), ("2", "14"));
    assert!(context(&error, "help").contains("iconv"));
}

#[test]
fn a_file_without_rows_is_an_error() {
    for empty in ["", "\n \r\n", "\u{feff}", "\u{feff}\r\n\n"] {
        assert_eq!(Written::new(empty).error().message(), "the data file has no rows");
    }
}

#[test]
fn files_of_other_formats_are_recognised() {
    for (start, what) in [
        (&b"PAR1\x15\x04"[..], "a Parquet file"),
        (&gz(b"PAR1\x15\x04"), "a Parquet file, inside gzip"),
        (b"\xff\xfe{\0", "UTF-16"),
    ] {
        let error = Written::new(start).error();
        assert_eq!(error.message(), format!("the data file is {what}, not text"));
        assert_ne!(context(&error, "help"), "");
    }
}

#[test]
fn what_is_no_file_is_an_error_that_names_the_nearest() {
    let written = Written::new("{\"text\": \"a\"}");
    let open = |path: &Path| open(path).err().unwrap();

    let missing = open(&written.directory.path().join("trian.jsonl"));
    assert_eq!((missing.code(), missing.message()), (ErrorCode::Input, "the data file does not exist"));
    assert_eq!(context(&missing, "help"), format!("there is {}", written.path().display()));

    let directory = open(written.directory.path());
    assert_eq!(directory.message(), "the data source is a directory, not a file");
    assert_eq!(context(&directory, "help"), format!("name a file in it, such as {}", written.path().display()));

    assert!(context(&open(Path::new("nowhere/at/all.jsonl")), "help").contains("relative to the directory"));
    assert_eq!(open(Path::new("")).code(), ErrorCode::Config);
}

#[test]
fn a_state_that_does_not_fit_the_file_is_refused() {
    let written = Written::new("{\"text\": \"a\"}\n{\"text\": \"b\"}\n");
    let mut source = written.open().unwrap();
    assert_eq!(source.restore("garbage").unwrap_err().message(), "\"garbage\" is not a place in a JSON Lines file");
    source.restore("byte 14 after 1 lines").unwrap();
    assert_eq!(source.next().unwrap(), Some(text(2, "b")));
    for changed in ["byte 13 after 1 lines", "byte 29 after 2 lines", "byte 18446744073709551615 after 2 lines"] {
        let error = source.restore(changed).unwrap_err();
        assert!(error.message().starts_with("the data file has changed: no line begins at byte"), "{error}");
    }
}

#[test]
fn faults_in_an_array_name_row_line_and_column() {
    for (file, message, [row, line, column]) in [
        ("[{\"text\": \"a\"},\n {\"text\" 1}]", "not valid JSON: expected `:`", ["2", "2", "10"]),
        ("[{\"text\": \"a\"}\n {\"text\": \"b\"}]", "not valid JSON: trailing characters", ["1", "2", "2"]),
        ("[\n 3]", "an element of the array must be a JSON object", ["1", "2", "2"]),
        ("[{\"text\": \"a\"}, ]", "a row is missing", ["2", "1", "17"]),
        ("[{\"text\": \"a\"}", "the JSON array is not closed", ["1", "1", "15"]),
        ("[{\"text\": \"a\"},\n{\"te", "not valid JSON: EOF", ["2", "2", "4"]),
        ("[{\"text\": \"a\"}]\n {}", "something follows the JSON array", ["", "2", "2"]),
        ("[\n{\"text\": 1}]", "`text` must be a string, not a number", ["1", "2", ""]),
    ] {
        let error = Written::new(file).error();
        assert!(error.message().starts_with(message), "{file}: {error}");
        assert_eq!(["row", "line", "column"].map(|key| context(&error, key)), [row, line, column], "{file}: {error}");
    }
    assert_eq!(Written::new("\u{feff}[ ]").error().message(), "the data file has no rows");
    assert!(context(&Written::new("[{}").error(), "help").contains("may be cut off"));
}

#[test]
fn a_gzip_file_that_is_cut_off_says_so() {
    let whole = gz(&b"{\"text\": \"a\"}\n".repeat(100));
    let error = Written::new(&whole[..whole.len() - 5]).error();
    assert_eq!(error.message(), "the data file cannot be read");
    assert!(error.to_string().contains("damaged or cut off"), "{error}");
    assert!(context(&error, "help").contains("gzip -t"), "{error}");
}

#[test]
fn a_compressed_row_without_end_is_an_error_that_names_it() {
    let mut text = b"{\"text\": \"a\"}\n".to_vec();
    text.resize(text.len() + (64 << 20) + 1, b'a');
    let error = Written::new(gz(&text)).error();
    assert!(error.to_string().contains("line 2 is longer than 64 MiB"), "{error}");
    let array = [b"[{},".as_slice(), &text].concat();
    let error = Written::new(gz(&array)).error();
    assert!(error.to_string().contains("row 2 is longer than 64 MiB"), "{error}");
}

#[test]
fn a_state_that_does_not_fit_the_array_is_refused() {
    let mut source = Written::new("[{\"text\": \"a\"}]").open().unwrap();
    assert!(source.restore("byte 0 after 0 lines").unwrap_err().message().contains("one JSON array"));
    let error = source.restore("after 2 rows of an array").unwrap_err();
    assert_eq!(error.message(), "the data file has changed: no row begins after 2 rows of an array any more");
}
