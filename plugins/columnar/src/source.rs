//! The data source: rows of a table, one after the other or in any order.

use std::path::{Path, PathBuf};

use mdt_columns::{Columns, Config};
use mdt_plugin_api::prelude::*;
use mdt_plugin_api::serde_json::Map;

use crate::table::Table;
use crate::value;

/// The data sources `parquet`, `arrow` and `feather`.
///
/// A row's number is its place in the file, from 1. Rows can be read in any order without reading those before, and a file can
/// be larger than memory. It must not change meanwhile.
pub struct Columnar {
    path: PathBuf,
    columns: Columns,
    table: Table,
    /// The rows before the next one.
    row: u64,
}

impl Component for Columnar {
    type Config = Config;

    /// Opens a file.
    ///
    /// # Errors
    /// The file cannot be read, is of another kind or damaged; columns cannot be mapped.
    fn create(config: Config, setup: &Setup) -> Result<Self> {
        let path = Path::new(&setup.source);
        let columns = config.columns()?;
        Ok(Self { path: path.to_owned(), columns, table: Table::open(path)?, row: 0 })
    }
}

impl Columnar {
    /// The row at this place of a block, as an example.
    fn example(&mut self) -> Result<Result<Example>> {
        let (rows, place) = self.table.row(self.row)?;
        let mut cells = Map::new();
        let mut bytes = Vec::new();
        for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()) {
            match value::value(field, column, place) {
                Ok(cell) if cell.is_null() => {
                    bytes.extend(value::bytes(column, place).map(|bytes| (field.name().clone(), bytes.to_vec())));
                }
                Ok(cell) => drop(cells.insert(field.name().clone(), cell)),
                Err(error) => return Ok(Err(error)),
            }
        }
        // Bytes that are no text have no form in JSON. A trainer may look for those of a column.
        let with_bytes = |example: Example| bytes.into_iter().fold(example, |row, (name, bytes)| row.with(name, bytes));
        Ok(self.columns.example(self.row + 1, cells).map(with_bytes))
    }
}

impl DataSource for Columnar {
    fn length(&mut self) -> Result<Length> {
        match self.table.rows() {
            0 => Err(Error::input("the data file has no rows").with("file", self.path.display())),
            rows => Ok(Length::Rows(rows)),
        }
    }

    fn next(&mut self) -> Result<Option<Example>> {
        if self.row == self.table.rows() {
            return Ok(None);
        }
        let example = self.example()?;
        // A row that cannot be used is behind the source.
        self.row += 1;
        example.map(Some).map_err(|error| error.with("file", self.path.display()).with("row", self.row))
    }

    fn state(&self) -> Result<String> {
        Ok(after(self.row))
    }

    fn restore(&mut self, state: &str) -> Result<()> {
        let in_file = |error: Error| error.with("file", self.path.display());
        let row = state.strip_prefix("after ").and_then(|rest| rest.strip_suffix(" rows")?.parse().ok());
        let row = row.ok_or_else(|| in_file(Error::input(format!("{state:?} is not a place in a table"))))?;
        if row > self.table.rows() {
            return Err(in_file(Error::input(format!("the data file has changed: it no longer has {row} rows"))));
        }
        self.row = row;
        Ok(())
    }

    fn state_of(&mut self, row: u64) -> Result<Option<String>> {
        Ok((row < self.table.rows()).then(|| after(row)))
    }
}

fn after(rows: u64) -> String {
    format!("after {rows} rows")
}
