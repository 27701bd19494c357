//! Tables of comma- or tab-separated values (RFC 4180): a header row, then one row per example.

use std::io::BufReader;
use std::path::{Path, PathBuf};

use ::csv::{ErrorKind, Position, Reader, ReaderBuilder, StringRecord};
use mdt_columns::{Columns, Fields, Format};
use mdt_plugin_api::prelude::*;
use mdt_plugin_api::serde_json::{Map, Value};

use crate::open::{self, Data};
use crate::unpacked;

mdt_plugin_api::config! {
    /// Keys of the data sources `csv` and `tsv`.
    pub struct Config {
        /// The format of the rows: `auto`, `messages`, `prompt_completion`, `sharegpt`, `alpaca`, `preference`,
        /// `text`, or `columns` for rows of any columns.
        format: Format = Format::Auto,
        /// The names of columns in the header, where they differ: `{ prompt = "question", completion = "answer" }`.
        fields: Fields = Fields::default(),
        /// Text that is made of columns: `{title}\n{body}`. Two braces stand for one.
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<String> = None,
        /// What separates cells. Unset, it is a tab in files whose name has the extension `tsv`, and a comma in others.
        #[serde(skip_serializing_if = "Option::is_none")]
        delimiter: Option<char> = None,
        /// The file in which the text of a compressed file is kept, so that its rows can be read in any order. The host sets it.
        #[serde(skip_serializing_if = "Option::is_none")]
        unpacked: Option<String> = None,
    }
}

/// The data source `csv`.
///
/// A row's number is counted as a spreadsheet would, from 1 below the header: quoted cells may span lines. All values are text;
/// conversations and tools are the JSON of them.
pub struct Csv {
    path: PathBuf,
    columns: Columns,
    names: Vec<String>,
    delimiter: u8,
    unpacked: Option<PathBuf>,
    reader: Reader<BufReader<Data>>,
    services: Services,
    /// The number of rows, and where every so many of them begin.
    index: Option<(u64, Vec<Position>)>,
}

/// How many rows apart the places of an index are.
const APART: u64 = 32;

impl Component for Csv {
    type Config = Config;

    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// The file cannot be read or is of another kind; two columns have one name; columns cannot be mapped.
    fn create(config: Config, setup: &Setup) -> Result<Self> {
        let path = Path::new(&setup.source);
        let Config { format, fields, text, delimiter, unpacked } = config;
        let unpacked = unpacked.map(PathBuf::from);
        let columns = Columns::new(format, fields, text)?;
        // `train.tsv.gz` is one, too.
        let is_tsv = path.file_name().is_some_and(|name| name.to_string_lossy().split('.').any(|part| part == "tsv"));
        let delimiter = u8::try_from(delimiter.unwrap_or(if is_tsv { '\t' } else { ',' }))
            .ok()
            .filter(u8::is_ascii)
            .ok_or_else(|| Error::config("data.delimiter must be an ASCII character").with("key", "data.delimiter"))?;
        let mut reader = reader(unpacked::open(path, unpacked.as_deref(), &setup.services)?, delimiter);
        let header = reader.headers().map_err(|error| unreadable(path, &error))?;
        let names: Vec<String> = header.iter().map(str::to_owned).collect();
        if let Some((_, twice)) = names.iter().enumerate().find(|(place, name)| names[..*place].contains(name)) {
            return Err(Error::input(format!("the header has the column `{twice}` twice"))
                .with("file", path.display())
                .help("rename one of the two"));
        }
        let (path, services) = (path.to_owned(), setup.services.clone());
        Ok(Self { path, columns, names, delimiter, unpacked, reader, services, index: None })
    }
}

fn reader(data: Data, delimiter: u8) -> Reader<BufReader<Data>> {
    ReaderBuilder::new().delimiter(delimiter).from_reader(BufReader::with_capacity(1 << 18, data))
}

/// What is wrong with a file, or with one row of it.
fn unreadable(path: &Path, error: &::csv::Error) -> Error {
    let described = match error.kind() {
        ErrorKind::Io(error) => return open::unreadable(path, error),
        ErrorKind::UnequalLengths { expected_len, len, .. } => {
            Error::input(format!("the row has {len} cells, and the header {expected_len}"))
                .help("a cell that has the separator, a quote or a line end in it stands in quotes")
        }
        ErrorKind::Utf8 { .. } => {
            Error::input("not valid UTF-8").help("save the file as UTF-8, such as with: iconv -f LATIN1 -t UTF-8")
        }
        _ => Error::input("not a table of separated values").caused_by(error),
    };
    let described = described.with("file", path.display());
    match error.position() {
        Some(place) => described.with("row", place.record()).with("line", place.line()),
        None => described,
    }
}

impl Csv {
    /// Counts the rows and finds where they begin, with a reader of its own.
    ///
    /// # Errors
    /// The file cannot be read or has no rows; the job is cancelled.
    fn index(&mut self) -> Result<&(u64, Vec<Position>)> {
        if self.index.is_none() {
            // Rows that cannot be used are rows, too.
            let data = unpacked::open(&self.path, self.unpacked.as_deref(), &self.services)?;
            let mut reader = reader(data, self.delimiter);
            reader.byte_headers().map_err(|error| unreadable(&self.path, &error))?;
            let (mut row, mut count, mut places) = (::csv::ByteRecord::new(), 0, Vec::new());
            loop {
                if count % APART == 0 {
                    places.push(reader.position().clone());
                }
                match reader.read_byte_record(&mut row) {
                    Ok(false) => break,
                    Err(error) if !matches!(error.kind(), ErrorKind::UnequalLengths { .. }) => {
                        return Err(unreadable(&self.path, &error));
                    }
                    Ok(true) | Err(_) => count += 1,
                }
                if count % 1024 == 0 && self.services.cancelled() {
                    return Err(Error::new(
                        ErrorCode::Cancelled,
                        "interrupted while the rows of the data file were counted",
                    )
                    .with("file", self.path.display()));
                }
            }
            if count == 0 {
                return Err(Error::input("the data file has no rows").with("file", self.path.display()));
            }
            self.index = Some((count, places));
        }
        self.index.as_ref().ok_or_else(|| Error::other("the index is lost"))
    }
}

impl DataSource for Csv {
    fn length(&mut self) -> Result<Length> {
        Ok(Length::Rows(self.index()?.0))
    }

    fn next(&mut self) -> Result<Option<Example>> {
        let mut row = StringRecord::new();
        if !self.reader.read_record(&mut row).map_err(|error| unreadable(&self.path, &error))? {
            return Ok(None);
        }
        let (number, line) = row.position().map_or((0, 0), |place| (place.record(), place.line()));
        // The reader has checked that every row has as many cells as the header.
        let cells = self.names.iter().cloned().zip(row.iter().map(Value::from)).collect::<Map<_, _>>();
        let in_row = |error: Error| error.with("file", self.path.display()).with("row", number).with("line", line);
        self.columns.example(number, cells).map(Some).map_err(in_row)
    }

    fn state(&self) -> Result<String> {
        let place = self.reader.position();
        Ok(format!("byte {} line {} after {} rows", place.byte(), place.line(), place.record()))
    }

    fn restore(&mut self, state: &str) -> Result<()> {
        let numbers: Vec<u64> = state.split(' ').filter_map(|word| word.parse().ok()).collect();
        let [byte, line, record] = numbers[..] else {
            return Err(Error::input(format!("{state:?} is not a place in a table")).with("file", self.path.display()));
        };
        let mut place = Position::new();
        place.set_byte(byte).set_line(line).set_record(record);
        self.reader.seek(place).map_err(|error| unreadable(&self.path, &error))
    }

    fn state_of(&mut self, row: u64) -> Result<Option<String>> {
        if matches!(self.reader.get_ref().get_ref(), Data::Compressed(_)) {
            return Ok(None);
        }
        let (count, places) = self.index()?;
        let place = places.get((row / APART) as usize).filter(|_| row < *count).cloned();
        let Some(place) = place else { return Ok(None) };
        self.reader.seek(place).map_err(|error| unreadable(&self.path, &error))?;
        let mut passed = ::csv::ByteRecord::new();
        for _ in 0..row % APART {
            match self.reader.read_byte_record(&mut passed) {
                Err(error) if !matches!(error.kind(), ErrorKind::UnequalLengths { .. }) => {
                    return Err(unreadable(&self.path, &error));
                }
                _ => {}
            }
        }
        self.state().map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path, config: Config) -> Result<Csv> {
        Csv::create(config, &Setup { source: path.display().to_string(), ..Setup::default() })
    }

    #[test]
    fn quoted_cells_are_read_bad_rows_are_named_and_a_restored_source_continues() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("train.csv");
        let text = "\u{feff}id,prompt,completion\r\n1,\"a, b\nand c\",\"say \"\"d\"\"\"\r\n2,e,f\r\n3,g\r\n4,h,i\r\n";
        std::fs::write(&path, text).unwrap();
        let example = |row: u64, prompt: &str, completion: &str| {
            Some(Example::new(row).with("prompt", prompt).with("completion", completion).with("id", row.to_string()))
        };
        let mut source = open(&path, Config::default()).unwrap();
        assert_eq!(source.length().unwrap(), Length::Rows(4));
        assert_eq!(source.next().unwrap(), example(1, "a, b\nand c", "say \"d\""));
        let state = source.state().unwrap();
        assert_eq!(source.next().unwrap(), example(2, "e", "f"));
        let error = source.next().unwrap_err();
        assert_eq!(error.message(), "the row has 2 cells, and the header 3");
        assert!(error.context().contains(&("row".to_owned(), "3".to_owned())), "{error:?}");
        assert_eq!(source.next().unwrap(), example(4, "h", "i"), "a bad row is behind the source");

        let mut restored = open(&path, Config::default()).unwrap();
        restored.restore(&state).unwrap();
        assert_eq!(restored.next().unwrap(), example(2, "e", "f"));
        assert!(restored.restore("somewhere").is_err());
        for (place, expected) in [(3, example(4, "h", "i")), (1, example(2, "e", "f"))] {
            let state = restored.state_of(place).unwrap().unwrap();
            restored.restore(&state).unwrap();
            assert_eq!(restored.next().unwrap(), expected);
        }
        assert_eq!(restored.state_of(4).unwrap(), None);
    }

    #[test]
    fn tabs_separate_cells_of_tsv_files_and_templates_make_text() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("train.tsv");
        std::fs::write(&path, "title\tbody\nA, B\tC\n").unwrap();
        let config = Config { text: Some("{title}: {body}".to_owned()), ..Config::default() };
        let example = open(&path, config).unwrap().next().unwrap().unwrap();
        assert_eq!(example.text("text").unwrap(), "A, B: C");
        std::fs::write(&path, "title\ttitle\n").unwrap();
        assert!(open(&path, Config::default()).is_err_and(|error| error.message().contains("twice")));
    }
}
