//! Errors for files of results that cannot be written or read.

use crate::exit::{Failure, Status};
use std::io::{self, ErrorKind};
use std::path::Path;

/// The error for a failed write: what it was for, where, why, and what to do about it.
pub(crate) fn unwritable(what: &str, path: &Path, error: &io::Error) -> Failure {
    let help = match error.kind() {
        _ if error.raw_os_error() == Some(libc::ELOOP) => {
            "it is a symbolic link, and results are not written through one: remove it, or set `output_dir` to another \
             directory"
        }
        _ if error.raw_os_error() == Some(libc::EMLINK) => {
            "it has a second name (a hard link), and what is written here would change there: remove it, or set \
             `output_dir` to another directory"
        }
        ErrorKind::StorageFull => "the disk is full: free space, or set `output_dir` to another file system",
        ErrorKind::QuotaExceeded => "the disk quota is used up: free space, or set `output_dir` to another file system",
        ErrorKind::FileTooLarge => "a file may not grow this large here: raise the limit (`ulimit -f`)",
        ErrorKind::PermissionDenied => "make it writable for this user, or set `output_dir` to another directory",
        ErrorKind::ReadOnlyFilesystem => "the file system is read-only: set `output_dir` to another directory",
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            "there is a file where a directory is needed: move it, or set `output_dir` to another directory"
        }
        _ => "check that the directory of `output_dir` is there, is writable and has space",
    };
    Failure::new(Status::Storage, what).at(path.display()).because(error).help(help)
}

/// The error for a failed read of a file that a run wrote.
pub(crate) fn unreadable(what: &str, path: &Path, error: impl std::fmt::Display) -> Failure {
    Failure::new(Status::Storage, what).at(path.display()).because(error)
}
