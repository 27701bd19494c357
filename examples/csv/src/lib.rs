//! Data sets in comma-separated values (RFC 4180) as a plugin for `mdt-host`: a header row, then one row per example.

use std::fs::File;
use std::path::{Path, PathBuf};

use csv::{Position, Reader, ReaderBuilder, StringRecord};
use mdt_plugin_api::prelude::*;

mdt_plugin_api::config! {
    /// Keys of the data source `csv`.
    pub struct Config {
        /// The separator of columns: a comma, or "\t" for tab-separated values.
        delimiter: char = ',',
        /// The names of columns in the header, where they differ: `{ prompt = "question", completion = "answer" }`.
        fields: Fields = Fields::default(),
    }
}

mdt_plugin_api::config! {
    /// Columns by their names in the header.
    pub struct Fields {
        /// The input of the model.
        prompt: String = "prompt".to_owned(),
        /// The answer that it is trained to give.
        completion: String = "completion".to_owned(),
        /// Plain text. Under another name than `text` it comes before prompts and completions.
        text: String = "text".to_owned(),
    }
}

/// The positions of the columns of an example.
#[derive(Clone, Copy)]
enum Columns {
    PromptCompletion(usize, usize),
    Text(usize),
}

struct Csv {
    path: PathBuf,
    columns: Columns,
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
        let header = reader.headers().map_err(unreadable)?;
        let columns = columns(header, &config.fields).ok_or_else(|| {
            let found: Vec<_> = header.iter().collect();
            Error::input("the header has neither a prompt and a completion nor a text")
                .with("file", path.display())
                .with("columns found", found.join(", "))
                .help("map them: data.fields = { prompt = \"question\", completion = \"answer\" }")
        })?;
        Ok(Self { path: path.to_owned(), columns, reader })
    }
}

fn columns(header: &StringRecord, fields: &Fields) -> Option<Columns> {
    let find = |name: &str| header.iter().position(|column| column == name);
    let text = find(&fields.text).map(Columns::Text);
    match (find(&fields.prompt), find(&fields.completion)) {
        (Some(prompt), Some(completion)) if fields.text == "text" => {
            Some(Columns::PromptCompletion(prompt, completion))
        }
        _ => text,
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
        // The reader has checked that every row has as many cells as the header.
        let cell = |column: usize| row[column].to_owned();
        // Rows are counted as a spreadsheet would, from 1 below the header: quoted cells may span lines.
        let example = Example::new(row.position().map_or(0, Position::record));
        Ok(Some(match self.columns {
            Columns::PromptCompletion(prompt, completion) => {
                example.with("prompt", cell(prompt)).with("completion", cell(completion))
            }
            Columns::Text(text) => example.with("text", cell(text)),
        }))
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
        let fields = Fields { prompt: "question".to_owned(), completion: "answer".to_owned(), ..Fields::default() };
        let config = Config { fields, ..Config::default() };
        let example = |row, prompt: &str, completion: &str| {
            Some(Example::new(row).with("prompt", prompt).with("completion", completion))
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
