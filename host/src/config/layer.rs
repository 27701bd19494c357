//! One layer of configuration: a table of values, normalised, that knows where each came from.

use super::check::describe;
use super::flat::{self, FlatKey};
use super::normalise::normalise;
use super::origin::Origin;
use crate::exit::Failure;
use figment::value::{Dict, Map, Value as FigmentValue};
use figment::{Figment, Metadata, Profile, Provider};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path as FilePath;

/// A JSON object: the form that every file format, the environment and `--set` are read into.
pub(super) type Table = serde_json::Map<String, Value>;

/// The place of a value: the keys that lead to it.
pub(super) type Path = Vec<String>;

/// A layer as it is merged.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    origin: Origin,
    lines: BTreeMap<Path, usize>,
    /// The values that stand under a flat key, and that key.
    flat_keys: BTreeMap<Path, &'static str>,
    pub(super) values: Table,
}

impl Layer {
    /// A layer of `values` after normalisation. `lines` are those of a file, where its format tells them.
    ///
    /// # Errors
    /// A section that is neither a table nor a string which stands for one.
    pub(super) fn new(origin: Origin, values: Table, lines: BTreeMap<Path, usize>) -> Result<Self, Failure> {
        let mut layer = Layer { origin, lines, flat_keys: BTreeMap::new(), values: Table::new() };
        match normalise(values) {
            Ok(values) => {
                layer.values = values;
                Ok(layer)
            }
            Err(wrong) => Err(Failure::configuration(format!(
                "`{}` is {}, where {} is expected",
                wrong.key, wrong.found, wrong.expected
            ))
            .at(layer.origin_of(&[wrong.key]))),
        }
    }

    /// The same of a file, which may be flat.
    ///
    /// # Errors
    /// As [`Layer::new`]; a flat key and the key that it stands for have different values.
    pub(super) fn of_file(origin: Origin, values: Table, lines: BTreeMap<Path, usize>) -> Result<Self, Failure> {
        let mut layer = Self::new(origin, values, lines)?;
        flat::KEYS.iter().try_for_each(|flat| layer.unflatten(flat))?;
        Ok(layer)
    }

    fn unflatten(&mut self, flat: &FlatKey) -> Result<(), Failure> {
        let Some(value) = self.values.shift_remove(flat.name) else {
            return Ok(());
        };
        // Normalised, a section that is there is a table.
        let section = self.values.entry(flat.section).or_insert_with(|| json!({}));
        let there = &mut section[flat.key];
        let path = vec![flat.section.to_owned(), flat.key.to_owned()];
        if !there.is_null() && *there != value {
            let (one, other) = (describe(&value), describe(there));
            let message =
                format!("`{}` is {one} and `{}` is {other}, but they are one setting", flat.name, flat.place());
            return Err(Failure::configuration(message)
                .at(self.origin_of(&[flat.name.to_owned()]))
                .at(self.origin_of(&path))
                .help("remove one of them"));
        }
        *there = value;
        if let Some(line) = self.lines.remove(std::slice::from_ref(&flat.name.to_owned())) {
            self.lines.insert(path.clone(), line);
        }
        self.flat_keys.insert(path, flat.name);
        Ok(())
    }

    /// Whether the layer has flat keys.
    pub(super) fn is_flat(&self) -> bool {
        !self.flat_keys.is_empty()
    }

    /// The file, where the layer is a flat one.
    pub(super) fn flat_file(&self) -> Option<&FilePath> {
        match &self.origin {
            Origin::File { path, .. } if self.is_flat() => Some(path),
            _ => None,
        }
    }

    /// Where the value at `path` came from, or the nearest table around it.
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

    /// Whether the layer does nothing but choose a component.
    pub(super) fn only_chooses(&self) -> bool {
        self.values.len() == 1
            && self.values.values().all(|v| v.as_object().is_some_and(|t| t.len() == 1 && t.contains_key("use")))
    }
}

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

/// What a stack of layers comes to.
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

/// A layer under its number in the stack, which is how figment's metadata leads back to it.
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
