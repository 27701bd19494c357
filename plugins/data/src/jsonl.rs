//! Files of rows in JSON: JSON Lines (<https://jsonlines.org>), one object per line, or one JSON array of objects.

mod array;
mod lines;
mod parse;
mod rows;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use mdt_columns::{Columns, Fields, Format};
use mdt_plugin_api::prelude::*;
use rows::Rows;

use crate::{open, unpacked};

mdt_plugin_api::config! {
    /// Keys of the data source `jsonl`.
    pub struct Config {
        /// The format of the rows: `auto`, `messages`, `prompt_completion`, `sharegpt`, `alpaca`, `preference`,
        /// `text`, or `columns` for rows of any columns.
        format: Format = Format::Auto,
        /// The names of columns in the file, where they differ: `{ prompt = "question", completion = "answer" }`.
        fields: Fields = Fields::default(),
        /// Text that is made of columns: `{title}\n{body}`. Two braces stand for one.
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<String> = None,
        /// The file in which the text of a compressed file is kept, so that its rows can be read in any order. The host sets it.
        #[serde(skip_serializing_if = "Option::is_none")]
        unpacked: Option<String> = None,
    }
}

/// The data source `jsonl`.
///
/// Lines end with LF or CRLF, blank lines and a byte order mark at the beginning are passed over, and an example's row
/// is the number of its line; a file that begins with a bracket is one array, and a row is the number of its element.
/// A file can be read while it is larger than memory. Its rows are counted when their number is asked for, by reading it
/// through once. It must not change meanwhile.
pub struct Jsonl {
    path: PathBuf,
    unpacked: Option<PathBuf>,
    columns: Columns,
    rows: Rows,
    services: Services,
    /// The number of rows, and where every so many of them begin.
    index: Option<(u64, Option<Vec<rows::Place>>)>,
}

impl Component for Jsonl {
    type Config = Config;

    /// Opens a file.
    ///
    /// # Errors
    /// The file cannot be read or is of another kind; columns cannot be mapped.
    fn create(config: Config, setup: &Setup) -> Result<Self> {
        let path = Path::new(&setup.source);
        let Config { format, fields, text, unpacked } = config;
        let (columns, unpacked) = (Columns::new(format, fields, text)?, unpacked.map(PathBuf::from));
        let rows = rows(path, unpacked.as_deref(), &setup.services)?;
        Ok(Self { path: path.to_owned(), unpacked, columns, rows, services: setup.services.clone(), index: None })
    }
}

fn rows(path: &Path, unpacked: Option<&Path>, services: &Services) -> Result<Rows> {
    Rows::new(unpacked::open(path, unpacked, services)?).map_err(|error| open::unreadable(path, &error))
}

impl Jsonl {
    /// Counts the rows and finds where they begin, with a reader of its own.
    ///
    /// # Errors
    /// The file cannot be read, has no rows, or has text after its array; the job is cancelled.
    fn index(&mut self) -> Result<&(u64, Option<Vec<rows::Place>>)> {
        if self.index.is_none() {
            let mut rows = rows(&self.path, self.unpacked.as_deref(), &self.services)?;
            let look = |_| match self.services.cancelled() {
                false => Ok(()),
                true => {
                    let message = "interrupted while the rows of the data file were counted";
                    Err(Error::new(ErrorCode::Cancelled, message).with("file", self.path.display()))
                }
            };
            let index = rows.index(look, &self.path)?;
            check_end(&self.path, &mut rows)?;
            if index.0 == 0 {
                return Err(Error::input("the data file has no rows").with("file", self.path.display()));
            }
            self.index = Some(index);
        }
        self.index.as_ref().ok_or_else(|| Error::other("the index is lost"))
    }
}

impl DataSource for Jsonl {
    fn length(&mut self) -> Result<Length> {
        Ok(Length::Rows(self.index()?.0))
    }

    fn next(&mut self) -> Result<Option<Example>> {
        let in_file = |error: Error| error.with("file", self.path.display());
        let next = self.rows.next().map_err(|error| open::unreadable(&self.path, &error))?;
        let Some((row, after)) = next else {
            check_end(&self.path, &mut self.rows)?;
            return Ok(None);
        };
        // In an array a line does not say which row it is.
        let numbered = |error: Error| if after.is_some() { error.with("row", row.number) } else { error };
        let columns = parse::object(&row, after).map_err(|error| numbered(in_file(error)))?;
        match self.columns.example(row.number, columns) {
            Ok(example) => Ok(Some(example)),
            Err(error) => Err(numbered(in_file(error)).with("line", row.line)),
        }
    }

    fn state(&self) -> Result<String> {
        Ok(self.rows.state())
    }

    /// # Errors
    /// The text is no state of this source, or no row of the file begins there: it was changed since.
    fn restore(&mut self, state: &str) -> Result<()> {
        self.rows.restore(&self.path, state)
    }

    fn state_of(&mut self, row: u64) -> Result<Option<String>> {
        let (count, Some(places)) = self.index()? else { return Ok(None) };
        let Some(&place) = places.get((row / rows::APART) as usize).filter(|_| row < *count) else { return Ok(None) };
        let state = self.rows.state_after(place, row % rows::APART);
        state.map(Some).map_err(|error| open::unreadable(&self.path, &error))
    }
}

/// Refuses text after the last row.
fn check_end(path: &Path, rows: &mut Rows) -> Result<()> {
    match rows.trailing().map_err(|error| open::unreadable(path, &error))? {
        None => Ok(()),
        Some((line, column)) => Err(Error::input("something follows the JSON array that the file begins with")
            .with("file", path.display())
            .with("line", line)
            .with("column", column)
            .help("a file holds one array of rows, or an object on each line: jq -c '.[]' FILE")),
    }
}
