//! Merging layers with figment, and which layer each value came from.

use super::layer::Layer;
use super::origin::Origin;
use super::value::{Path, Table};
use crate::exit::Failure;
use figment::value::{Dict, Map, Value as FigmentValue};
use figment::{Figment, Metadata, Profile, Provider};
use serde_json::Value;
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
pub(super) fn merge<'a>(layers: impl IntoIterator<Item = &'a Layer>) -> Result<Merged, Failure> {
    let layers: Vec<&Layer> = layers.into_iter().collect();
    let numbered = layers.iter().enumerate();
    let figment =
        numbered.fold(Figment::new(), |figment, (number, layer)| figment.merge(Numbered(number, &layer.values)));
    let failed = |error: &dyn std::error::Error| Failure::configuration("the layers cannot be merged").because(error);
    let mut profiles = figment.data().map_err(|error| failed(&error))?;
    let table = profiles.remove(&Profile::Default).unwrap_or_default();
    let mut origins = BTreeMap::new();
    for (key, value) in &table {
        collect_origins(&figment, &layers, &mut vec![key.clone()], value, &mut origins);
    }
    Ok(Merged { values: serde_json::to_value(table).map_err(|error| failed(&error))?, origins })
}

fn collect_origins(
    figment: &Figment,
    layers: &[&Layer],
    path: &mut Path,
    value: &FigmentValue,
    origins: &mut BTreeMap<Path, Origin>,
) {
    match value {
        FigmentValue::Dict(_, table) if !table.is_empty() => {
            for (key, value) in table {
                path.push(key.clone());
                collect_origins(figment, layers, path, value, origins);
                path.pop();
            }
        }
        leaf => {
            let number = figment.get_metadata(leaf.tag()).and_then(|metadata| metadata.name.parse::<usize>().ok());
            if let Some(layer) = number.and_then(|number| layers.get(number)) {
                origins.insert(path.clone(), layer.origin_of(path));
            }
        }
    }
}

/// The values of a layer under its number, which figment's metadata keeps for every value.
struct Numbered<'a>(usize, &'a Table);

impl Provider for Numbered<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.0.to_string())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let values = FigmentValue::serialize(self.1)?;
        Ok(Profile::Default.collect(values.into_dict().unwrap_or_default()))
    }
}

impl Merged {
    /// Where the value at `path`, or the first one under it, came from.
    pub(super) fn origin(&self, path: &[String]) -> Option<&Origin> {
        self.origins.range(path.to_vec()..).next().filter(|(p, _)| p.starts_with(path)).map(|(_, origin)| origin)
    }
}
