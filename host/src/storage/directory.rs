//! A directory that appears with all its files in one rename, and disappears in one.
//!
//! For a short time there are directories beside `NAME`: `.NAME.tmp` is being written; `.NAME.old` is whole and being
//! replaced; `.NAME.gone` is being deleted. A killed process leaves them behind, and [`recover`] cleans up.

use super::crash_points::reached;
use super::file::sync;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A directory being written beside the place where it will be. Dropped before [`Staged::publish`], it is deleted.
pub(crate) struct Staged {
    temporary: PathBuf,
    target: PathBuf,
    published: bool,
}

impl Staged {
    /// Creates an empty directory that will become `target`, in the same parent, which must exist.
    pub(crate) fn create(target: &Path) -> io::Result<Self> {
        let temporary = beside(target, WRITING);
        remove_if_there(&temporary)?;
        fs::create_dir(&temporary)?;
        reached("temporary directory created");
        Ok(Staged { temporary, target: target.to_owned(), published: false })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.temporary
    }

    /// Waits until its files are on the disk, renames it to the target and replaces an earlier one.
    pub(crate) fn publish(mut self) -> io::Result<()> {
        sync_with_content(&self.temporary)?;
        reached("files on the disk");
        let parent = parent(&self.target);
        let old = beside(&self.target, REPLACED);
        let replaces = self.target.exists();
        if replaces {
            remove_if_there(&old)?;
            fs::rename(&self.target, &old)?;
            reached("replaced directory set aside");
        }
        if let Err(error) = fs::rename(&self.temporary, &self.target) {
            if replaces {
                fs::rename(&old, &self.target)?;
            }
            return Err(error);
        }
        self.published = true;
        reached("directory renamed");
        sync(parent)?;
        if replaces {
            fs::remove_dir_all(&old)?;
            reached("replaced directory deleted");
        }
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.published {
            // The user is told of the write that failed; what stays here is removed at the next start.
            let _ = fs::remove_dir_all(&self.temporary);
        }
    }
}

/// What a killed process leaves beside a directory ends in one of these: it was being written; it was being replaced, and
/// is whole; it was being deleted.
const LEFTOVERS: [&str; 3] = [WRITING, REPLACED, DELETING];
const WRITING: &str = "tmp";
const REPLACED: &str = "old";
const DELETING: &str = "gone";

fn beside(target: &Path, leftover: &str) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.{leftover}"))
}

/// The name of the directory that a leftover belongs to; none if the name is not that of a leftover.
pub(crate) fn leftover_of(name: &str) -> Option<&str> {
    let (name, extension) = name.strip_prefix('.')?.rsplit_once('.')?;
    LEFTOVERS.contains(&extension).then_some(name)
}

/// Cleans up what a killed process left beside `target`: a directory that was being replaced is restored if its
/// replacement is missing; everything else is deleted. No process may be writing there.
pub(crate) fn recover(target: &Path) -> io::Result<()> {
    let old = beside(target, REPLACED);
    if old.exists() && !target.exists() {
        fs::rename(&old, target)?;
        sync(parent(target))?;
    }
    LEFTOVERS.iter().try_for_each(|leftover| remove_if_there(&beside(target, leftover)))
}

/// Deletes a directory. At no moment is a part of it found under its name.
pub(crate) fn remove(directory: &Path) -> io::Result<()> {
    let gone = beside(directory, DELETING);
    remove_if_there(&gone)?;
    fs::rename(directory, &gone)?;
    reached("directory to delete renamed");
    // Without this, a power failure could bring the name back after parts of the content are gone.
    sync(parent(directory))?;
    fs::remove_dir_all(&gone)?;
    reached("directory deleted");
    Ok(())
}

/// Waits until a directory, and all that is in it, is on the disk.
fn sync_with_content(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { sync_with_content(&entry.path())? } else { sync(&entry.path())? }
    }
    sync(directory)
}

fn remove_if_there(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_directory_is_there_whole_at_every_moment_of_the_replacement() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("final");
        let publish = |content: &str| {
            let staged = Staged::create(&target).unwrap();
            fs::write(staged.path().join("a"), content).unwrap();
            staged.publish().unwrap();
        };
        publish("first");
        let place = target.clone();
        super::super::crash_points::observe(
            move |step| {
                // What a start after a kill finds, checked without moving the files that the running replacement uses.
                let old = beside(&place, REPLACED);
                let found = if place.exists() { &place } else { &old };
                assert!(!fs::read_to_string(found.join("a")).unwrap().is_empty(), "{step}");
            },
            || publish("second"),
        );
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "second");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_kill_between_the_two_renames_brings_the_replaced_directory_back() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("final");
        for leftover in LEFTOVERS {
            fs::create_dir(beside(&target, leftover)).unwrap();
            fs::write(beside(&target, leftover).join("a"), leftover).unwrap();
        }
        recover(&target).unwrap();
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "old");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_dropped_staged_directory_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        drop(Staged::create(&root.path().join("final")).unwrap());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
