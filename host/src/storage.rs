//! Files and directories of results. Each is either whole or absent, whatever happens while it is written.

pub(crate) mod crash_points;
mod directory;
mod failure;
mod file;
mod mapped;
mod tensors;

pub(crate) use directory::{Staged, leftover_of, recover, remove};
pub(crate) use failure::{unreadable, unwritable};
pub(crate) use file::{Written, copy, open_own, sync, write, write_staged};
pub(crate) use mapped::MappedTensors;
pub use tensors::{Array, TypedArray};
pub(crate) use tensors::{StoredArray, stored, write_tensors};

use crate::exit::Failure;
use std::fs;
use std::path::Path;

/// Makes sure that results can be written to `path`, before anything is spent: creates it, and writes and removes a
/// small file.
///
/// # Errors
/// It is a file, cannot be created, or cannot be written to.
pub fn check_output_dir(path: &Path) -> Result<(), Failure> {
    let failure = |at: &Path, error| unwritable("the output directory cannot be used", at, &error);
    fs::create_dir_all(path).map_err(|error| failure(path, error))?;
    let probe = path.join(format!(".probe-{}", std::process::id()));
    let written = write(&probe, b"mdt").map(drop);
    // A disk that is full leaves an empty probe behind.
    let removed = fs::remove_file(&probe);
    written.and(removed).map_err(|error| failure(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Status;

    #[test]
    fn an_output_directory_is_created_with_its_parents_and_nothing_is_left_in_it() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        check_output_dir(&path).unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    }

    #[test]
    fn an_output_directory_that_is_a_file_is_refused_before_anything_is_spent() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("out");
        fs::write(&path, "mine").unwrap();
        for path in [path.clone(), path.join("below")] {
            let failure = check_output_dir(&path).unwrap_err();
            assert_eq!(failure.status(), Status::Storage);
            let text = failure.to_string();
            assert!(text.contains(&path.display().to_string()), "{text}");
            assert!(text.contains("`output_dir`"), "{text}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
