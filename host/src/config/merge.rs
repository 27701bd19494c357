//! Merging layers, and which layer each value came from.

use super::layer::Layer;
use super::origin::Origin;
use super::value::{Path, Table};
use crate::exit::Failure;
use figment::value::{Dict, Map, Value as FigmentValue};
use figment::{Figment, Metadata, Profile, Provider};
use std::collections::BTreeMap;

/// Layers merged by figment, lowest first, with the layer that each value came from.
pub(super) struct Stack<'a> {
    figment: Figment,
    layers: Vec<&'a Layer>,
}

impl<'a> Stack<'a> {
    pub(super) fn new(layers: impl IntoIterator<Item = &'a Layer>) -> Self {
        let layers: Vec<&Layer> = layers.into_iter().collect();
        let numbered = layers.iter().enumerate();
        let figment = numbered.fold(Figment::new(), |figment, (number, layer)| figment.merge(Numbered(number, layer)));
        Stack { figment, layers }
    }

    /// The merged values.
    ///
    /// # Errors
    /// figment's own, which a layer that is a table of JSON values does not cause.
    pub(super) fn merge(&self) -> Result<Merged, Failure> {
        let mut merged = Merged { values: Table::new(), origins: BTreeMap::new() };
        let mut profiles = self.figment.data().map_err(|e| Failure::configuration(e.to_string()))?;
        for (key, value) in profiles.remove(&Profile::Default).unwrap_or_default() {
            let json = serde_json::to_value(&value).map_err(|e| Failure::configuration(e.to_string()))?;
            self.collect_origins(&mut vec![key.clone()], &value, &mut merged.origins);
            merged.values.insert(key, json);
        }
        Ok(merged)
    }

    fn collect_origins(&self, path: &mut Path, value: &FigmentValue, origins: &mut BTreeMap<Path, Origin>) {
        match value {
            FigmentValue::Dict(_, dict) if !dict.is_empty() => {
                for (key, value) in dict {
                    path.push(key.clone());
                    self.collect_origins(path, value, origins);
                    path.pop();
                }
            }
            leaf => {
                let number = self.figment.get_metadata(leaf.tag()).and_then(|m| m.name.parse::<usize>().ok());
                if let Some(layer) = number.and_then(|n| self.layers.get(n)) {
                    origins.insert(path.clone(), layer.origin_of(path));
                }
            }
        }
    }
}

/// The merged layers.
#[derive(Debug, Clone)]
pub(super) struct Merged {
    /// The values, keys sorted.
    pub(super) values: Table,
    /// For each leaf (a list, an empty table and null are leaves): where it came from.
    pub(super) origins: BTreeMap<Path, Origin>,
}

impl Merged {
    /// Where the value at `path`, or the first one under it, came from.
    pub(super) fn origin(&self, path: &[String]) -> Option<&Origin> {
        self.origins.range(path.to_vec()..).next().filter(|(p, _)| p.starts_with(path)).map(|(_, origin)| origin)
    }
}

/// A layer and its number in the stack, by which figment's metadata leads back to it.
struct Numbered<'a>(usize, &'a Layer);

impl Provider for Numbered<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.0.to_string())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let value = FigmentValue::serialize(&self.1.values)?;
        let dict = value.into_dict().unwrap_or_default();
        Ok(Profile::Default.collect(dict))
    }
}
