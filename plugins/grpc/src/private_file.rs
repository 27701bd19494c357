//! Files that only their owner may access: the job token and the key of a certificate.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;

use mdt_plugin_api::{Error, Result};

/// The largest file that is read.
const LARGEST: u64 = 1 << 16;

/// Reads the file that a key of the configuration names. `advice` says what to do where it is no file.
///
/// # Errors
/// It cannot be read, is no regular file, or is open to other users.
pub(crate) fn read(key: &str, path: &str, advice: &str) -> Result<Vec<u8>> {
    let refused =
        |why: &str, help: &str| Err(Error::config(format!("{key}: {path} {why}")).with("key", key).help(help));
    let unreadable = unreadable(key, path);
    // Asked before the file is opened: opening a pipe would wait for its writer.
    if !fs::metadata(path).map_err(&unreadable)?.is_file() {
        return refused("is not a regular file", advice);
    }
    let file = File::open(path).map_err(&unreadable)?;
    let mode = file.metadata().map_err(&unreadable)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return refused(&format!("is open to other users (mode {mode:o})"), &format!("run `chmod 600 {path}`"));
    }
    read_open(file).map_err(unreadable)
}

/// Reads a file that others may read, too.
///
/// # Errors
/// It cannot be read, or is no regular file.
pub(crate) fn read_public(key: &str, path: &str) -> Result<Vec<u8>> {
    let unreadable = unreadable(key, path);
    if !fs::metadata(path).map_err(&unreadable)?.is_file() {
        return Err(Error::config(format!("{key}: {path} is not a regular file")).with("key", key));
    }
    File::open(path).and_then(read_open).map_err(unreadable)
}

fn read_open(file: File) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes).map(|_| bytes)
}

fn unreadable(key: &str, path: &str) -> impl Fn(std::io::Error) -> Error {
    let message = format!("{key}: {path} cannot be read");
    let key = key.to_owned();
    move |error| Error::config(&message).with("key", &key).caused_by(error)
}
