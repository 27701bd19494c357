//! The plugin files that were built, and damaged copies of them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::built;

/// The name of a library's file on this system.
pub fn library_name(name: &str) -> String {
    format!("{}{name}{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX)
}

/// A plugin of the workspace: `library("mdt_optim")`.
pub fn library(name: &str) -> PathBuf {
    built().join(library_name(name))
}

/// The bytes of a file with one text in it replaced by another one of the same length, wherever it stands.
pub fn patched(file: &Path, from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len(), "the file's length must not change");
    let mut bytes = fs::read(file).expect("a file to patch");
    let places: Vec<_> =
        bytes.windows(from.len()).enumerate().filter(|(_, w)| *w == from.as_bytes()).map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "{} has no {from:?} in it", file.display());
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    bytes
}
