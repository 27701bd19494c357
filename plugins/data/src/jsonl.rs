//! JSON Lines (<https://jsonlines.org>): one JSON object per line.

mod lines;
mod open;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use lines::{Lines, Position};
use mdt_plugin_api::prelude::*;
use mdt_plugin_api::serde_json::{self, Value};

use crate::{Columns, Fields, Format};

mdt_plugin_api::config! {
    /// Keys of the data source `jsonl`.
    pub struct Config {
        /// What a row holds: `auto`, `messages`, `prompt_completion`, `text`.
        format: Format = Format::Auto,
        /// The names of columns in the file, where they differ: `{ prompt = "question", completion = "answer" }`.
        fields: Fields = Fields::default(),
    }
}

/// The data source `jsonl`.
///
/// Lines end with LF or CRLF, blank lines and a byte order mark at the beginning are passed over, and an example's row
/// is the number of its line. The file is read through once when it is opened, to count the rows; each row is parsed
/// when it is asked for. It must not change meanwhile.
pub struct Jsonl {
    path: PathBuf,
    columns: Columns,
    lines: Lines<BufReader<File>>,
    rows: u64,
}

impl Component for Jsonl {
    type Config = Config;

    fn create(config: Config, setup: &Setup) -> Result<Self> {
        Self::open(Path::new(&setup.source), config)
    }
}

impl Jsonl {
    /// Opens a file and counts its rows.
    ///
    /// # Errors
    /// Nothing there that could be read, no row in it, or columns that cannot be mapped.
    pub fn open(path: &Path, config: Config) -> Result<Self> {
        let columns = Columns::new(config.format, config.fields)?;
        let mut lines = Lines::new(BufReader::with_capacity(1 << 18, open::file(path)?));
        let mut rows = 0;
        while lines.next().map_err(|error| open::unreadable(path, &error))?.is_some() {
            rows += 1;
        }
        if rows == 0 {
            return Err(Error::input("the data file has no rows").with("file", path.display()));
        }
        let mut source = Self { path: path.to_owned(), columns, lines, rows };
        source.seek(Position::START)?;
        Ok(source)
    }

    fn seek(&mut self, position: Position) -> Result<()> {
        self.lines.seek(position).map_err(|error| open::unreadable(&self.path, &error))
    }
}

impl DataSource for Jsonl {
    fn len(&self) -> Option<u64> {
        Some(self.rows)
    }

    fn next(&mut self) -> Result<Option<Example>> {
        let next = self.lines.next().map_err(|error| open::unreadable(&self.path, &error))?;
        let Some((row, line)) = next else { return Ok(None) };
        match content(&self.columns, line) {
            Ok(content) => Ok(Some(Example { row, content })),
            Err(error) => Err(error.with("file", self.path.display()).with("line", row)),
        }
    }

    fn state(&self) -> Result<String> {
        Ok(self.lines.position().to_string())
    }

    /// # Errors
    /// The text is no state of this source, or no line of the file begins there: it was changed since.
    fn restore(&mut self, state: &str) -> Result<()> {
        let position: Position = state.parse().map_err(|error: Error| error.with("file", self.path.display()))?;
        let line_begins = self.lines.line_begins(position).map_err(|error| open::unreadable(&self.path, &error))?;
        if !line_begins {
            return Err(Error::input(format!("the data file has changed: no line begins at {position} any more"))
                .with("file", self.path.display()));
        }
        self.seek(position)
    }
}

/// What a line holds.
fn content(columns: &Columns, line: &[u8]) -> Result<Content> {
    let text = str::from_utf8(line).map_err(|error| not_utf8(line, error.valid_up_to()))?;
    match serde_json::from_str(text).map_err(|error| not_json(text, &error))? {
        Value::Object(row) => columns.content(row),
        _ => {
            Err(Error::input("a line must be a JSON object").with("excerpt", excerpt(text, 0)).help(one_per_line(text)))
        }
    }
}

fn not_json(text: &str, error: &serde_json::Error) -> Error {
    // The parser counts bytes of this one line, from 1; its own "at line 1 column 9" would mislead.
    let at = text.floor_char_boundary(error.column().saturating_sub(1));
    let reason = error.to_string();
    let reason = reason.rsplit_once(" at line ").map_or(reason.as_str(), |(reason, _)| reason);
    let described = Error::input(format!("not valid JSON: {reason}"))
        .with("column", text[..at].chars().count() + 1)
        .with("excerpt", excerpt(text, at));
    if error.is_eof() { described.help(one_per_line(text)) } else { described }
}

fn not_utf8(line: &[u8], valid: usize) -> Error {
    let text = String::from_utf8_lossy(line);
    let column = text[..valid].chars().count() + 1;
    Error::input(format!("not valid UTF-8: byte 0x{:02x}", line[valid]))
        .with("column", column)
        .with("excerpt", excerpt(&text, valid))
        .help("save the file as UTF-8, such as with: iconv -f LATIN1 -t UTF-8")
}

fn one_per_line(text: &str) -> &'static str {
    if text.trim_start().starts_with('[') {
        "this looks like one JSON array; JSON Lines has an object on each line: jq -c '.[]' FILE"
    } else {
        "JSON Lines has a whole object on each line: jq -c . FILE"
    }
}

/// The text around byte `at`, some thirty characters to each side.
fn excerpt(text: &str, at: usize) -> String {
    const REACH: usize = 30;
    let at = text.floor_char_boundary(at);
    let start = text.floor_char_boundary(at.saturating_sub(REACH));
    let end = text.ceil_char_boundary(at.saturating_add(REACH));
    let (before, after) = (if start > 0 { "…" } else { "" }, if end < text.len() { "…" } else { "" });
    format!("{before}{}{after}", &text[start..end])
}
