//! Rows that cannot be used, where `data.on_bad_row` is "skip": counted, shown, and all listed in a file.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use mdt_plugin_api::{Error, ErrorCode};
use serde::{Deserialize, Serialize};

use super::row_location::RowLocation;
use crate::counted::counted;
use crate::exit::Failure;
use crate::storage::{open_own, unwritable};

/// The file in the output directory that lists them.
pub const FILE: &str = "bad_rows.jsonl";

/// How many of them are shown.
pub const SHOWN: usize = 20;

/// A row that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow {
    /// Where it is.
    pub location: RowLocation,
    /// What is wrong with it.
    pub reason: String,
}

impl BadRow {
    /// The row at this place, which this error is about.
    pub fn new(location: RowLocation, error: &Error) -> Self {
        let place = |(key, _): &&(String, String)| !["file", "row", "line", "help"].contains(&key.as_str());
        let context: Vec<String> = error.context().iter().filter(place).map(|(k, v)| format!("{k} {v}")).collect();
        let mut reason = error.message().to_owned();
        if !context.is_empty() {
            reason += &format!(" ({})", context.join(", "));
        }
        error.causes().iter().for_each(|cause| reason += &format!(": {cause}"));
        Self { location, reason }
    }
}

/// Whether an error is that of a row, and so not of a plugin, a key or a whole file. Of what a source reports, only errors are
/// looked at after which it stands elsewhere.
pub fn is_of_a_row(error: &Error) -> bool {
    error.code() == ErrorCode::Input && !error.is_after_a_panic()
}

/// The number of the row that the error of a source is about, if it is about one.
pub(super) fn bad_row_number(error: &Error) -> Option<u64> {
    let number = |key: &&str| error.context().iter().find(|(name, _)| name == *key)?.1.parse().ok();
    ["row", "line"].iter().find_map(number).filter(|_| is_of_a_row(error))
}

/// A bad row as it is listed: a line of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listed {
    source: String,
    row: u64,
    #[serde(default)]
    reason: String,
}

/// The bad rows of a run: each is listed once, also where rows are read again in later passes and after a resume.
pub struct BadRows {
    /// The file, on the rank that writes it, and what is open of it: it is made for the first bad row.
    path: Option<PathBuf>,
    file: Option<File>,
    known: BTreeSet<(String, u64)>,
    shown: usize,
    /// What the rank that writes the file does not know yet.
    untold: Vec<Listed>,
}

impl BadRows {
    /// Those of a run. One that resumes keeps what is listed in the output directory; another one begins with none. Other ranks
    /// than the first have no directory.
    ///
    /// # Errors
    /// The file cannot be read or removed.
    pub fn open(output_dir: Option<&Path>, resumed: bool) -> Result<Self, Failure> {
        let path = output_dir.map(|directory| directory.join(FILE));
        let mut rows = Self { path, file: None, known: BTreeSet::new(), shown: 0, untold: Vec::new() };
        let Some(path) = rows.path.as_ref().filter(|path| path.exists()) else { return Ok(rows) };
        let failed = |error: io::Error| unwritable("the list of bad rows cannot be written", path, &error);
        if !resumed {
            std::fs::remove_file(path).map_err(failed)?;
            return Ok(rows);
        }
        let (mut file, mut text) = (open_own(path, true).map_err(failed)?, String::new());
        file.read_to_string(&mut text).map_err(failed)?;
        // A line that a kill has cut off is listed again.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        file.set_len(whole as u64).map_err(failed)?;
        let listed = text[..whole].lines().filter_map(|line| serde_json::from_str::<Listed>(line).ok());
        rows.known = listed.map(|Listed { source, row, .. }| (source, row)).collect();
        rows.file = Some(file);
        Ok(rows)
    }

    /// Lists rows of these sources. Returns lines for the user: about the first ones of a run, and where all of them are.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&mut self, sources: &[String], rows: &[BadRow]) -> Result<Vec<String>, Failure> {
        let listed = |BadRow { location: RowLocation { source, row }, reason }: &BadRow| Listed {
            source: sources[*source as usize].clone(),
            row: *row,
            reason: reason.clone(),
        };
        self.list(rows.iter().map(listed))
    }

    /// The same for rows that other ranks have met.
    ///
    /// # Errors
    /// As for [`BadRows::add`].
    pub fn list(&mut self, rows: impl IntoIterator<Item = Listed>) -> Result<Vec<String>, Failure> {
        let (mut text, mut lines, begins) = (String::new(), Vec::new(), self.shown == 0);
        for row in rows {
            if !self.known.insert((row.source.clone(), row.row)) {
                continue;
            }
            if self.path.is_none() {
                self.untold.push(row);
                continue;
            }
            text += &(serde_json::to_string(&row).map_err(|_| Failure::internal())? + "\n");
            if self.shown < SHOWN {
                lines.push(format!("bad row  {} row {}: {}", row.source, row.row, row.reason));
                self.shown += 1;
            }
        }
        let Some(path) = self.path.as_ref().filter(|_| !text.is_empty()) else { return Ok(lines) };
        let failed = |error: io::Error| unwritable("the list of bad rows cannot be written", path, &error);
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(open_own(path, true).map_err(failed)?),
        };
        file.write_all(text.as_bytes()).map_err(failed)?;
        if begins {
            lines.push(format!("bad row  all of them are listed in {}", path.display()));
        }
        Ok(lines)
    }

    /// What the first rank is to list, on another one.
    pub fn take_untold(&mut self) -> Vec<Listed> {
        std::mem::take(&mut self.untold)
    }

    /// How many there are, as a line for the user; none where there are none.
    pub fn summary(&self) -> Option<String> {
        (!self.known.is_empty()).then(|| format!("{} skipped", counted(self.known.len(), "bad row")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(row: u64) -> BadRow {
        let error = Error::input("no").with("file", "a").with("line", row).with("column", 3).caused_by("it is so");
        BadRow::new(RowLocation { source: 0, row }, &error)
    }

    #[test]
    fn each_row_is_listed_once_and_the_first_are_shown() {
        let directory = tempfile::tempdir().unwrap();
        let sources = ["a.jsonl".to_owned()];
        let open = |resumed| BadRows::open(Some(directory.path()), resumed).unwrap();
        let listed = || std::fs::read_to_string(directory.path().join(FILE)).unwrap_or_default();
        let mut rows = open(false);
        assert!(rows.add(&sources, &[]).unwrap().is_empty() && rows.summary().is_none() && listed().is_empty());
        let lines = rows.add(&sources, &(1..=30).map(row).collect::<Vec<_>>()).unwrap();
        assert_eq!((lines.len(), lines[0].as_str()), (21, "bad row  a.jsonl row 1: no (column 3): it is so"));
        assert!(rows.add(&sources, &[row(30), row(31)]).unwrap().is_empty());
        assert_eq!(rows.summary().unwrap(), "31 bad rows skipped");
        assert_eq!(listed().lines().count(), 31);

        std::fs::write(directory.path().join(FILE), listed() + "{\"sour").unwrap();
        let mut rows = open(true);
        rows.add(&sources, &[row(31), row(32)]).unwrap();
        assert_eq!(listed().lines().count(), 32);
        let mut rows = open(false);
        rows.add(&sources, &[row(1)]).unwrap();
        assert_eq!(listed().lines().count(), 1);
    }
}
