//! Merging layers, and which layer each value came from.

use super::layer::Layer;
use super::origin::Origin;
use super::value::Path;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The merged layers.
#[derive(Debug, Clone)]
pub(super) struct Merged {
    /// The values, keys sorted.
    pub(super) values: Value,
    /// For each leaf (a list, an empty table and null are leaves): where it came from.
    pub(super) origins: BTreeMap<Path, Origin>,
}

/// Merges layers, the lowest first: tables key by key; any other value replaces that of a lower layer.
pub(super) fn merge<'a>(layers: impl IntoIterator<Item = &'a Layer>) -> Merged {
    let mut merged = Merged { values: json!({}), origins: BTreeMap::new() };
    for layer in layers {
        for (key, value) in &layer.values {
            lay_over(&mut merged.values[key], value, &mut vec![key.clone()], layer, &mut merged.origins);
        }
    }
    merged.values.sort_all_objects();
    merged
}

fn lay_over(lower: &mut Value, value: &Value, path: &mut Path, layer: &Layer, origins: &mut BTreeMap<Path, Origin>) {
    match value.as_object().filter(|table| lower.is_object() || !table.is_empty()) {
        Some(table) => {
            if !lower.is_object() {
                *lower = json!({});
            }
            if !table.is_empty() {
                // The table is no leaf any more.
                origins.remove(path);
            }
            for (key, value) in table {
                path.push(key.clone());
                lay_over(&mut lower[key], value, path, layer, origins);
                path.pop();
            }
        }
        None => {
            origins.retain(|leaf, _| !leaf.starts_with(path));
            origins.insert(path.clone(), layer.origin_of(path));
            *lower = value.clone();
        }
    }
}

impl Merged {
    /// Where the value at `path`, or the first one under it, came from.
    pub(super) fn origin(&self, path: &[String]) -> Option<&Origin> {
        self.origins.range(path.to_vec()..).next().filter(|(p, _)| p.starts_with(path)).map(|(_, origin)| origin)
    }
}
