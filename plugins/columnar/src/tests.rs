//! The rows of files that pyarrow, pandas and datasets have written are those of the JSON Lines beside them, in any order, and
//! no damage to a file does more than an error.

use std::fs;
use std::path::PathBuf;

use mdt_columns::{Columns, Config};
use mdt_plugin_api::abi::across;
use mdt_plugin_api::prelude::*;
use mdt_plugin_api::serde_json::{Map, Value, from_str, from_value, json};

use crate::Columnar;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tables")).join(name)
}

/// The fixtures with these rows, but for directories.
fn files(rows: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(fixture("")).unwrap().map(|file| file.unwrap().path());
    let is_table = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        path.is_file() && name.starts_with(rows) && !name.ends_with(".jsonl")
    };
    let mut files: Vec<PathBuf> = files.filter(is_table).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

fn config(format: &str) -> Config {
    from_value(json!({ "format": format })).unwrap()
}

/// The source, as a host gets it.
fn open(path: PathBuf, format: &str) -> Result<Box<dyn DataSource>> {
    let setup = Setup { source: path.display().to_string(), ..Setup::default() };
    across::data(Box::new(Columnar::create(config(format), &setup)?))
}

fn all(source: &mut Box<dyn DataSource>) -> Result<Vec<Example>> {
    std::iter::from_fn(|| source.next().transpose()).collect()
}

/// The rows of a file of JSON Lines.
fn expected(name: &str, format: &str) -> Vec<Example> {
    let columns: Columns = config(format).columns().unwrap();
    let text = fs::read_to_string(fixture(name)).unwrap();
    let rows = text.lines().map(|line| from_str::<Map<String, Value>>(line).unwrap());
    rows.zip(1..).map(|(row, number)| columns.example(number, row).unwrap()).collect()
}

fn sorted(mut row: Example) -> Example {
    row.values.sort_by(|(one, _), (other, _)| one.cmp(other));
    row
}

#[test]
fn every_kind_of_file_has_the_rows_of_the_same_lines_of_json_in_any_order() {
    for rows in ["pairs", "chats"] {
        let expected = expected(&format!("{rows}.jsonl"), "auto");
        for path in files(rows) {
            let mut source = open(path.clone(), "auto").unwrap();
            assert_eq!(source.length().unwrap(), Length::Rows(expected.len() as u64));
            let read = all(&mut source).unwrap();
            // pandas adds its index.
            for (read, expected) in read.into_iter().zip(&expected) {
                let mut read = sorted(read);
                read.values.retain(|(name, _)| !name.starts_with("__index"));
                assert_eq!(read, sorted(expected.clone()), "{}", path.display());
            }
            for place in [23, 0, 6, 7, 8, 13, 14, 1, 22] {
                let state = source.state_of(place).unwrap().unwrap();
                source.restore(&state).unwrap();
                assert_eq!(source.state().unwrap(), state);
                let read = source.next().unwrap().unwrap();
                assert_eq!((read.row, read.text("prompt").ok()), {
                    let expected = &expected[place as usize];
                    (place + 1, expected.text("prompt").ok())
                });
            }
            assert_eq!(source.state_of(24).unwrap(), None);
            assert!(source.restore("after 25 rows").is_err() && source.restore("row 3").is_err());
        }
    }
}

#[test]
fn every_type_becomes_what_json_has_for_it() {
    let mut expected = expected("types.jsonl", "columns");
    expected[1].set("bytes", vec![0xff_u8]);
    for path in files("types") {
        let read = all(&mut open(path.clone(), "columns").unwrap()).unwrap();
        // Parquet has no numbers of 16 bits.
        let is_parquet = path.extension().unwrap() == "parquet";
        for (read, mut expected) in read.into_iter().zip(expected.clone()) {
            expected.values.retain(|(name, _)| name != "float16" || !is_parquet);
            assert_eq!(sorted(read), sorted(expected), "{}", path.display());
        }
    }
}

/// Opens and reads a file that is not as it was written. Returns whether this was noticed.
fn is_refused(bytes: &[u8], what: &str) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("damaged");
    fs::write(&path, bytes).unwrap();
    let read = open(path, "columns").and_then(|mut source| {
        source.length()?;
        all(&mut source)
    });
    read.inspect_err(|error| assert_eq!(error.code(), ErrorCode::Input, "{what}: {error:?}")).is_err()
}

#[test]
fn a_file_that_is_cut_off_anywhere_is_refused() {
    for path in ["pairs", "chats", "types"].into_iter().flat_map(files) {
        let whole = fs::read(&path).unwrap();
        for length in (0..whole.len()).step_by(whole.len() / 25).chain(whole.len() - 9..whole.len()) {
            let what = format!("{}: {length} bytes", path.display());
            assert!(is_refused(&whole[..length], &what), "{what}");
        }
    }
}

#[test]
fn no_damage_to_a_file_does_more_than_an_error() {
    let (mut state, mut refused, mut tried) = (1_u64, 0, 0);
    let mut draw = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for path in ["pairs", "chats", "types"].into_iter().flat_map(files) {
        let whole = fs::read(&path).unwrap();
        for round in 0..60 {
            let mut bytes = whole.clone();
            // Lengths are at the end, where it has its metadata, and before every part.
            for _ in 0..=round % 3 {
                let near_the_end = draw(2) == 0;
                let place = if near_the_end { bytes.len() - 1 - draw(bytes.len() / 4) } else { draw(bytes.len()) };
                bytes[place] = if draw(3) == 0 { 0xff } else { draw(256) as u8 };
            }
            tried += 1;
            refused += usize::from(is_refused(&bytes, &format!("{} round {round}", path.display())));
        }
    }
    assert!(tried > 1000 && refused > tried / 3, "{refused} of {tried}");
}

#[test]
fn files_of_other_kinds_are_called_what_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.parquet");
    for (content, says) in [
        (&b""[..], "is empty"),
        (b"FEA1aaaaaaaa", "Feather of version 1"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"{\"text\": \"a\"}\n", "is JSON"),
        (b"version https://git-lfs", "a pointer of Git LFS"),
        (b"name,text\n", "neither Parquet nor Arrow"),
    ] {
        fs::write(&path, content).unwrap();
        let error = open(path.clone(), "auto").err().unwrap();
        assert!(error.message().contains(says), "{error:?}");
    }
    assert!(open(directory.path().join("none.parquet"), "auto").is_err());
    assert!(open(directory.path().to_owned(), "auto").is_err());
}
