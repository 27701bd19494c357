//! Moves the results of an earlier run aside before a new run writes to the same output directory.

use super::store::{DIRECTORY, Store};
use crate::exit::Failure;
use crate::storage::{self, unwritable};
use crate::{data, export, metrics};
use std::fs;
use std::io;
use std::path::PathBuf;

/// The names of all results in an output directory.
const RESULTS: [&str; 5] = [DIRECTORY, export::DIRECTORY, metrics::FILE, metrics::PICTURE, data::BAD_ROWS];

/// The directory in which results are collected until all of them appear as `earlier-N` at once.
const GATHERED: &str = ".earlier.tmp";

impl Store {
    /// Moves the results of an earlier run to `<output_dir>/earlier-N`, so that they cannot be taken for results of this
    /// run, and returns that directory. None if there is neither a checkpoint nor a final model.
    pub fn set_aside_earlier(&self) -> Result<Option<PathBuf>, Failure> {
        let output_dir = self.output_dir();
        let failed = |error: io::Error| unwritable("an earlier run cannot be moved aside", output_dir, &error);
        if self.updates().map_err(failed)?.is_empty() && !output_dir.join(export::DIRECTORY).exists() {
            return Ok(None);
        }
        fs::create_dir_all(output_dir.join(GATHERED)).map_err(failed)?;
        let aside = self.finish_setting_aside().map_err(failed)?;
        fs::create_dir_all(output_dir.join(DIRECTORY)).map_err(failed)?;
        Ok(aside)
    }

    /// Completes what [`Store::set_aside_earlier`] began, also after a kill in between.
    pub(super) fn finish_setting_aside(&self) -> io::Result<Option<PathBuf>> {
        let output_dir = self.output_dir();
        let gathered = output_dir.join(GATHERED);
        if !gathered.exists() {
            return Ok(None);
        }
        for name in RESULTS {
            let (from, to) = (output_dir.join(name), gathered.join(name));
            if fs::symlink_metadata(&from).is_ok() && fs::symlink_metadata(&to).is_err() {
                fs::rename(from, to)?;
                storage::crash_points::reached("a result moved aside");
            }
        }
        let mut places = (1u64..).map(|number| output_dir.join(format!("earlier-{number}")));
        let aside = places.find(|place| fs::symlink_metadata(place).is_err()).ok_or(io::ErrorKind::AlreadyExists)?;
        fs::rename(gathered, &aside)?;
        storage::crash_points::reached("earlier results named");
        storage::sync(output_dir)?;
        Ok(Some(aside))
    }
}
