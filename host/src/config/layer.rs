//! One layer of configuration: a normalised table of values, and where each value came from.

use super::normalise::normalise;
use super::origin::Origin;
use super::value::{Path, Table};
use crate::exit::Failure;
use std::collections::BTreeMap;
use std::path::Path as FilePath;

/// A layer, ready to be merged.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    origin: Origin,
    pub(super) lines: BTreeMap<Path, usize>,
    /// The values that were given under a flat key, and that key.
    pub(super) flat_keys: BTreeMap<Path, &'static str>,
    pub(super) values: Table,
}

impl Layer {
    /// A layer of `values`, which are normalised. `lines` are the lines of a file's keys, if they are known.
    pub(super) fn new(origin: Origin, values: Table, lines: BTreeMap<Path, usize>) -> Result<Self, Failure> {
        let mut layer = Layer { origin, lines, flat_keys: BTreeMap::new(), values: Table::new() };
        layer.values =
            normalise(values).map_err(|(key, message)| Failure::configuration(message).at(layer.origin_of(&[key])))?;
        Ok(layer)
    }

    /// Whether the layer has flat keys.
    pub(super) fn is_flat(&self) -> bool {
        !self.flat_keys.is_empty()
    }

    /// The file, if it is a flat one.
    pub(super) fn flat_file(&self) -> Option<&FilePath> {
        match &self.origin {
            Origin::File { path, .. } if self.is_flat() => Some(path),
            _ => None,
        }
    }

    /// Where the value at `path`, or else the nearest table around it, came from.
    pub(super) fn origin_of(&self, path: &[String]) -> Origin {
        let mut origin = self.origin.clone();
        if let Origin::File { line, flat_key, .. } = &mut origin {
            *line = (1..=path.len()).rev().find_map(|n| self.lines.get(&path[..n]).copied());
            *flat_key = self.flat_keys.get(path).copied();
        }
        origin
    }

    /// The component that this layer chooses for `section`.
    pub(super) fn choice(&self, section: &str) -> Option<&str> {
        self.values.get(section)?.get("use")?.as_str()
    }

    /// Whether the layer only chooses a component.
    pub(super) fn only_chooses(&self) -> bool {
        self.values.len() == 1
            && self.values.values().all(|v| v.as_object().is_some_and(|t| t.len() == 1 && t.contains_key("use")))
    }
}
