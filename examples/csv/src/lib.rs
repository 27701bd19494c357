//! Data sets in comma-separated values (RFC 4180) as a plugin for `mdt-host`: a header row, then one row per example.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use csv::{Position, Reader, ReaderBuilder, StringRecord};
use mdt_plugin_api::prelude::*;

mdt_plugin_api::config! {
    /// Keys of the data source `csv`.
    pub struct Config {
        /// The separator of columns: a comma, or "\t" for tab-separated values.
        delimiter: char = ',',
        /// The names of columns in the header, where a trainer calls them differently:
        /// `{ prompt = "question", completion = "answer" }`.
        fields: BTreeMap<String, String> = BTreeMap::new(),
    }
}

struct Csv {
    path: PathBuf,
    /// The columns as trainers call them.
    names: Vec<String>,
    reader: Reader<File>,
}

impl Component for Csv {
    type Config = Config;

    fn create(config: Config, setup: &Setup) -> Result<Self> {
        Self::open(Path::new(&setup.source), &config)
    }
}

impl Csv {
    fn open(path: &Path, config: &Config) -> Result<Self> {
        let delimiter = u8::try_from(config.delimiter)
            .ok()
            .filter(u8::is_ascii)
            .ok_or_else(|| Error::config("data.delimiter must be an ASCII character"))?;
        let unreadable = |error| unreadable(path, &error);
        let mut reader = ReaderBuilder::new().delimiter(delimiter).from_path(path).map_err(unreadable)?;
        let mut names: Vec<String> = reader.headers().map_err(unreadable)?.iter().map(str::to_owned).collect();
        for (ours, theirs) in &config.fields {
            let Some(place) = names.iter().position(|name| name == theirs) else {
                return Err(Error::input(format!("the header has no column `{theirs}`"))
                    .with("file", path.display())
                    .with("columns found", names.join(", "))
                    .with("key", format!("data.fields.{ours}")));
            };
            names[place].clone_from(ours);
        }
        Ok(Self { path: path.to_owned(), names, reader })
    }
}

fn unreadable(path: &Path, error: &csv::Error) -> Error {
    let described = Error::input("the data file cannot be read").with("file", path.display()).caused_by(error);
    match error.position() {
        Some(place) => described.with("row", place.record()),
        None => described,
    }
}

impl DataSource for Csv {
    /// Unknown until the file is read: quoted cells may span lines.
    fn length(&mut self) -> Result<Length> {
        Ok(Length::Unknown)
    }

    fn next(&mut self) -> Result<Option<Example>> {
        let mut row = StringRecord::new();
        if !self.reader.read_record(&mut row).map_err(|error| unreadable(&self.path, &error))? {
            return Ok(None);
        }
        // Rows are counted as a spreadsheet would, from 1 below the header: quoted cells may span lines.
        let example = Example::new(row.position().map_or(0, Position::record));
        // The reader has checked that every row has as many cells as the header.
        Ok(Some(self.names.iter().zip(&row).fold(example, |example, (name, cell)| example.with(name, cell))))
    }

    fn state(&self) -> Result<String> {
        let place = self.reader.position();
        Ok(format!("{} {} {}", place.byte(), place.line(), place.record()))
    }

    fn restore(&mut self, state: &str) -> Result<()> {
        let numbers: Vec<u64> = state.split(' ').map_while(|number| number.parse().ok()).collect();
        let [byte, line, record] = numbers[..] else {
            return Err(Error::input(format!("{state:?} is not a place in a CSV file")));
        };
        let mut place = Position::new();
        place.set_byte(byte).set_line(line).set_record(record);
        self.reader.seek(place).map_err(|error| unreadable(&self.path, &error))
    }
}

mdt_plugin_api::plugin! { data "csv" => Csv; }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_cells_are_read_bad_rows_are_named_and_a_restored_source_continues() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("train.csv");
        std::fs::write(&path, "\u{feff}id,question,answer\r\n1,\"a, b\nand c\",\"say \"\"d\"\"\"\r\n2,e,f\r\n3,g\r\n")
            .unwrap();
        let fields = [("prompt", "question"), ("completion", "answer")];
        let fields = fields.map(|(ours, theirs)| (ours.to_owned(), theirs.to_owned())).into();
        let config = Config { fields, ..Config::default() };
        let example = |row, prompt: &str, completion: &str| {
            let id = row.to_string();
            Some(Example::new(row).with("id", id).with("prompt", prompt).with("completion", completion))
        };

        let mut source = Csv::open(&path, &config).unwrap();
        assert_eq!(source.next().unwrap(), example(1, "a, b\nand c", "say \"d\""));
        let state = source.state().unwrap();
        assert_eq!(source.next().unwrap(), example(2, "e", "f"));
        assert_eq!(source.next().unwrap_err().context()[1], ("row".to_owned(), "3".to_owned()));

        let mut restored = Csv::open(&path, &config).unwrap();
        restored.restore(&state).unwrap();
        assert_eq!(restored.next().unwrap(), example(2, "e", "f"));
    }
}
