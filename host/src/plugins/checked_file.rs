//! A file of a plugin from its checks until it is loaded: what was checked is what is loaded.

use std::fs::{self, File, Metadata};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::permissions;
use crate::checksum;
use crate::exit::{Failure, Status};

/// An open file that only the user and root can replace, and its state when it was opened.
pub(super) struct CheckedFile {
    path: PathBuf,
    file: File,
    state: State,
}

/// Device, inode, size and time of change in seconds and nanoseconds: a new file has another inode, a write or a renaming
/// another time.
type State = (u64, u64, u64, i64, i64);

fn state(metadata: &Metadata) -> State {
    (metadata.dev(), metadata.ino(), metadata.size(), metadata.ctime(), metadata.ctime_nsec())
}

impl CheckedFile {
    /// Opens a file.
    ///
    /// # Errors
    /// It cannot be read, or somebody else could replace it.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let unreadable = |error| failure("the plugin cannot be read", path).because(error);
        // The loader searches a path without a separator in directories of its own.
        let path = fs::canonicalize(path).map_err(unreadable)?;
        let file = File::open(&path).map_err(unreadable)?;
        let state = state(&file.metadata().map_err(unreadable)?);
        permissions::refuse_replaceable(&path)?;
        let checked = Self { path, file, state };
        checked.require_unchanged()?;
        Ok(checked)
    }

    /// Its path, absolute and without links.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A path that leads to the file that was checked, whatever its own path leads to by now. Its descriptor stays open
    /// for good, because the loader knows libraries by their paths.
    ///
    /// Where the system does not show open files as paths, as Linux does, it is the file's own path.
    pub(super) fn open_path(&self) -> PathBuf {
        // The process is named by its number, so that debuggers find the file too.
        let shown = |file: File| PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.into_raw_fd()));
        let shown = self.file.try_clone().map(shown);
        shown.ok().filter(|path| path.exists()).unwrap_or_else(|| self.path.clone())
    }

    /// Its checksum in hexadecimal.
    pub(super) fn sha256(&self) -> Result<String, Failure> {
        let sha256 = checksum::of_open_file(&self.file)
            .map_err(|error| failure("the plugin cannot be read", &self.path).because(error))?;
        self.require_unchanged()?;
        Ok(sha256)
    }

    /// Checks that the path still leads to this file, and that nobody has written to it.
    pub(super) fn require_unchanged(&self) -> Result<(), Failure> {
        let is_same = |metadata: std::io::Result<Metadata>| metadata.is_ok_and(|now| state(&now) == self.state);
        if is_same(self.file.metadata()) && is_same(fs::metadata(&self.path)) {
            return Ok(());
        }
        Err(failure("a plugin's file was changed while it was loaded", &self.path)
            .help("wait until the plugin is installed, and run the command again"))
    }
}

fn failure(message: &str, path: &Path) -> Failure {
    Failure::new(Status::Plugin, message).at(path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_written_to_or_replaced_since_its_checks_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("libx.so");
        let other = directory.path().join("other");
        let open = || {
            fs::write(&path, "checked").unwrap();
            fs::write(&other, "another").unwrap();
            // The clock of files may be a hundredth of a second coarse.
            std::thread::sleep(std::time::Duration::from_millis(20));
            let file = CheckedFile::open(&path).unwrap();
            file.require_unchanged().unwrap();
            file
        };
        let written = open();
        fs::write(&path, "written").unwrap();
        assert!(written.require_unchanged().is_err() && written.sha256().is_err());
        let replaced = open();
        fs::rename(&other, &path).unwrap();
        assert!(replaced.require_unchanged().is_err());
        let replaced_for_a_moment = open();
        let aside = directory.path().join("aside");
        fs::rename(&path, &aside).unwrap();
        fs::rename(&aside, &path).unwrap();
        assert!(replaced_for_a_moment.require_unchanged().is_err());
        fs::remove_file(&path).unwrap();
        assert!(replaced_for_a_moment.require_unchanged().is_err());
    }
}
