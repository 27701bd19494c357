//! The records in a plugin's file, read without running any of its code.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;
use object::{Object, ObjectSection};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use mdt_plugin_api::Kind;
use mdt_plugin_api::register::{SECTION, SECTION_MACH_O};

/// The records of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Manifest {
    /// The version of the boundary that it was built for.
    pub abi: String,
    /// Its crate.
    pub package: String,
    /// The version of its crate.
    pub version: String,
    /// The licence, as its crate states it.
    pub license: String,
    /// Native libraries that it needs beside the system's.
    pub native: Vec<String>,
    /// The name of the sources that it was built from; empty where its build did not name them.
    pub sources: String,
    /// Its components, sorted by kind and id.
    pub components: Vec<Record>,
}

impl Manifest {
    /// The record of a component.
    pub fn component(&self, kind: Kind, id: &str) -> Option<&Record> {
        self.components.iter().find(|record| record.kind == kind.name() && record.id == id)
    }
}

/// One component in a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The name of its kind; perhaps one that this host does not know.
    pub kind: String,
    /// Its id.
    pub id: String,
    /// The interfaces that it has.
    #[serde(default)]
    pub interfaces: Vec<String>,
    /// The interfaces that it needs from the host.
    #[serde(default)]
    pub needs: Vec<String>,
    /// The JSON Schema (draft 2020-12, without references) of its configuration, with a default for every key.
    #[serde(default, skip_serializing)]
    pub schema: Value,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Component(Record),
    Library {
        abi: String,
        package: String,
        version: String,
        license: String,
        native: String,
        #[serde(default)]
        sources: String,
    },
}

/// Reads the records of a file; the error says why it is no plugin.
pub(super) fn read(path: &Path) -> Result<Manifest, String> {
    // Asked before it is opened: opening a named pipe waits for a writer.
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("not a file".to_owned());
    }
    if metadata.len() == 0 {
        return Err("the file is empty".to_owned());
    }
    let file = File::open(path).map_err(|error| error.to_string())?;
    // SAFETY: the bytes are only read, and whoever may write to the file could as well replace the plugin.
    let bytes = unsafe { Mmap::map(&file) }.map_err(|error| error.to_string())?;
    let object = object::File::parse(&*bytes).map_err(|error| format!("no object file: {error}"))?;
    let section = object
        .section_by_name(SECTION)
        .or_else(|| object.section_by_name(SECTION_MACH_O))
        .ok_or_else(|| "a library without plugin records".to_owned())?;
    parse(section.data().map_err(|error| error.to_string())?)
}

/// Reads the lines of a section; zero bytes are padding of the linker's.
pub(super) fn parse(section: &[u8]) -> Result<Manifest, String> {
    let text = std::str::from_utf8(section).map_err(|_| "plugin records that are no text".to_owned())?;
    let mut library = None;
    let mut components = Vec::new();
    for line in text.split(['\n', '\0']).filter(|line| !line.trim().is_empty()) {
        match serde_json::from_str(line) {
            Ok(Line::Component(record)) => components.push(record),
            Ok(Line::Library { abi, package, version, license, native, sources }) => {
                let native = native.split_whitespace().map(str::to_owned).collect();
                let components = Vec::new();
                library = Some(Manifest { abi, package, version, license, native, sources, components });
            }
            Err(_) => return Err(format!("a plugin record that cannot be read: {line}")),
        }
    }
    let library = library.ok_or_else(|| "plugin records without one for the library".to_owned())?;
    components.sort_by(|one, other| (&one.kind, &one.id).cmp(&(&other.kind, &other.id)));
    Ok(Manifest { components, ..library })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIBRARY: &str =
        r#"{"abi":"0.2","package":"lion","version":"1.0.0","license":"MIT","native":"liba.so libb.so "}"#;

    #[test]
    fn records_are_read_in_any_order_and_with_padding() {
        let section = format!(
            "\0{}\n\0\0{LIBRARY}\n{}\n\0",
            r#"{"kind":"optimizer","id":"lion"}"#, r#"{"kind":"data","id":"csv"}"#
        );
        let manifest = parse(section.as_bytes()).unwrap();
        assert_eq!(manifest.native, ["liba.so", "libb.so"]);
        let names: Vec<_> = manifest.components.iter().map(|record| (&*record.kind, &*record.id)).collect();
        assert_eq!(names, [("data", "csv"), ("optimizer", "lion")]);
    }

    #[test]
    fn damaged_records_are_refused_not_skipped() {
        for section in ["", "{\"kind\":\"opt", r#"{"kind":"optimizer","id":"lion"}"#] {
            assert!(parse(section.as_bytes()).is_err(), "{section}");
        }
    }
}
