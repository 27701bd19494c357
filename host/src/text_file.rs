//! Reading text files that the user names: regular files of limited size.

use std::fs::{self, File};
use std::io::{self, Error, ErrorKind, Read};
use std::path::Path;

/// The text of a file of at most `limit` bytes.
///
/// # Errors
/// It cannot be read, is longer than `limit`, is not UTF-8, or is not a regular file: reading a named pipe would wait
/// for a writer, and a device may be endless.
pub(crate) fn read(path: &Path, limit: u64) -> io::Result<String> {
    if !fs::metadata(path)?.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut text = String::new();
    File::open(path)?.take(limit + 1).read_to_string(&mut text)?;
    if text.len() as u64 > limit {
        return Err(Error::new(ErrorKind::FileTooLarge, format!("it is longer than {limit} bytes")));
    }
    Ok(text)
}

/// Far above the size of the largest known `tokenizer.json`.
const LARGEST_OF_MODEL: u64 = 1 << 29;

/// The text of a file of a model's directory, which may come from strangers.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_of_model(path: &Path) -> io::Result<String> {
    read(path, LARGEST_OF_MODEL)
}
