//! Reads text files of a model's directory, which may come from strangers: regular files of a limited size only.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use mdt_plugin_api::{Error, Result};

/// Far above the largest `tokenizer.json` there is.
const LARGEST: u64 = 1 << 29;

/// The text of a file; `None` if there is no such file.
///
/// # Errors
/// It cannot be read, is a pipe, a device or a socket (opening a pipe would wait for a writer), or is too large.
pub fn read_if_present(path: &Path) -> Result<Option<String>> {
    let unusable = |why: &dyn std::fmt::Display| {
        Error::input("the file cannot be read").with("file", path.display()).caused_by(why)
    };
    let read = |length: u64, is_file: bool| match (is_file, length) {
        (false, _) => Err(unusable(&"it is not a regular file")),
        (true, length) if length > LARGEST => Err(unusable(&"it is larger than 512 MiB")),
        _ => fs::read_to_string(path).map(Some).map_err(|error| unusable(&error)),
    };
    match fs::metadata(path) {
        Ok(metadata) => read(metadata.len(), metadata.is_file()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unusable(&error)),
    }
}
