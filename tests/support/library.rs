//! The plugin files that were built, and damaged copies of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::{built, run};

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

/// A lock file with the plugins of these components (those that load), and their native libraries.
pub fn lock_file<'a>(components: impl IntoIterator<Item = &'a str>) -> String {
    let (mut plugins, mut native) = (BTreeMap::new(), BTreeMap::new());
    for component in components {
        let inspected = run(["plugin", "inspect", component, "--json"]);
        if inspected.status != Some(0) {
            continue;
        }
        let described: Value = serde_json::from_str(&inspected.stdout).expect("JSON");
        let file = Path::new(described[0]["file"].as_str().expect("text")).file_name().expect("a name");
        plugins.insert(file.to_string_lossy().into_owned(), described[0]["sha256"].clone());
        let libraries = described[0]["native"].as_object().expect("a table");
        native.extend(libraries.iter().map(|(name, sha256)| (name.clone(), sha256.clone())));
    }
    toml::to_string(&json!({ "plugins": plugins, "native": native })).expect("TOML")
}
