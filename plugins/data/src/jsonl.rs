//! Files of rows: JSON Lines (<https://jsonlines.org>), one object per line, or one JSON array of objects; either may be
//! compressed with gzip.

mod array;
mod gzip;
mod lines;
mod open;
mod parse;
mod rows;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use mdt_plugin_api::prelude::*;
use rows::Rows;

use crate::{Columns, Fields, Format};

mdt_plugin_api::config! {
    /// Keys of the data source `jsonl`.
    pub struct Config {
        /// The format of the rows: `auto`, `messages`, `prompt_completion`, `sharegpt`, `alpaca`, `preference`,
        /// `text`, or `columns` for rows of any columns.
        format: Format = Format::Auto,
        /// The names of columns in the file, where they differ: `{ prompt = "question", completion = "answer" }`.
        fields: Fields = Fields::default(),
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
    columns: Columns,
    rows: Rows,
    services: Services,
    count: Option<u64>,
}

impl Component for Jsonl {
    type Config = Config;

    /// Opens a file.
    ///
    /// # Errors
    /// The file cannot be read or is of another kind; columns cannot be mapped.
    fn create(config: Config, setup: &Setup) -> Result<Self> {
        let path = Path::new(&setup.source);
        let columns = Columns::new(config.format, config.fields)?;
        let rows = Rows::new(open::file(path)?).map_err(|error| open::unreadable(path, &error))?;
        Ok(Self { path: path.to_owned(), columns, rows, services: setup.services.clone(), count: None })
    }
}

impl Jsonl {
    /// Counts the rows, with a reader of its own.
    ///
    /// # Errors
    /// The file cannot be read, has no rows, or has text after its array; the job is cancelled.
    fn count(&self) -> Result<u64> {
        let unreadable = |error| open::unreadable(&self.path, &error);
        let mut rows = Rows::new(open::file(&self.path)?).map_err(unreadable)?;
        let mut count = 0;
        while rows.next().map_err(unreadable)?.is_some() {
            count += 1;
            if count % 1024 == 0 && self.services.cancelled() {
                return Err(Error::new(
                    ErrorCode::Cancelled,
                    "interrupted while the rows of the data file were counted",
                )
                .with("file", self.path.display()));
            }
        }
        check_end(&self.path, &mut rows)?;
        if count == 0 {
            return Err(Error::input("the data file has no rows").with("file", self.path.display()));
        }
        Ok(count)
    }
}

impl DataSource for Jsonl {
    fn length(&mut self) -> Result<Length> {
        let count = self.count.map_or_else(|| self.count(), Ok)?;
        self.count = Some(count);
        Ok(Length::Rows(count))
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
