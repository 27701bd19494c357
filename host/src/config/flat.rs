//! Flat files: the format of the Python package `mlx_distributed_training`, in which all keys are at the top level.
//!
//! A file is flat if it has one of that package's keys at the top level. Those keys are moved into their sections. The
//! file may have sections too: the package had no keys for data. `optimizer`, `scheduler` and `output_dir` mean the same
//! in both formats and do not make a file flat. If a file is flat, a layer below all files has the package's defaults.
//! Profiles, environment variables and `--set` accept only the keys of sections.

use super::layer::Layer;
use super::origin::Origin;
use super::value::{Path, Table, describe};
use crate::exit::Failure;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A key of flat files, and the key that it stands for.
#[derive(Debug)]
pub(super) struct FlatKey {
    pub(super) name: &'static str,
    pub(super) section: &'static str,
    pub(super) key: &'static str,
}

/// All keys that make a file flat.
pub(super) const KEYS: [FlatKey; 10] = [
    FlatKey::new("model_name", "model", "name"),
    FlatKey::new("model_path", "model", "path"),
    FlatKey::new("batch_size", "trainer", "batch_size"),
    FlatKey::new("learning_rate", "optimizer", "learning_rate"),
    FlatKey::new("num_epochs", "trainer", "num_epochs"),
    FlatKey::new("gradient_accumulation_steps", "trainer", "gradient_accumulation_steps"),
    FlatKey::new("world_size", "comm", "world_size"),
    FlatKey::new("backend", "comm", "use"),
    FlatKey::new("warmup_steps", "scheduler", "warmup_steps"),
    FlatKey::new("save_steps", "checkpoint", "save_steps"),
];

impl FlatKey {
    const fn new(name: &'static str, section: &'static str, key: &'static str) -> Self {
        FlatKey { name, section, key }
    }

    fn move_to_section(&self, layer: &mut Layer) -> Result<(), Failure> {
        let Some(value) = layer.values.shift_remove(self.name) else {
            return Ok(());
        };
        // After normalisation every section is a table.
        let section = layer.values.entry(self.section).or_insert_with(|| json!({}));
        let there = &mut section[self.key];
        let path = vec![self.section.to_owned(), self.key.to_owned()];
        if !there.is_null() && *there != value {
            let (one, other) = (describe(&value), describe(there));
            let message =
                format!("`{}` is {one} and `{}` is {other}, but both are the same setting", self.name, self.place());
            return Err(Failure::configuration(message)
                .at(layer.origin_of(&[self.name.to_owned()]))
                .at(layer.origin_of(&path))
                .help("remove one of them"));
        }
        *there = value;
        if let Some(line) = layer.lines.remove(std::slice::from_ref(&self.name.to_owned())) {
            layer.lines.insert(path.clone(), line);
        }
        layer.flat_keys.insert(path, self.name);
        Ok(())
    }

    /// The full key, as other files have it.
    pub(super) fn place(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }
}

/// The layer of a file. Flat keys are moved into their sections.
///
/// # Errors
/// As [`Layer::new`]; a flat key and the key that it stands for have different values.
pub(super) fn layer(origin: Origin, values: Table, lines: BTreeMap<Path, usize>) -> Result<Layer, Failure> {
    let mut layer = Layer::new(origin, values, lines)?;
    KEYS.iter().try_for_each(|flat| flat.move_to_section(&mut layer))?;
    Ok(layer)
}

/// The layer of the package's defaults.
pub(super) fn defaults() -> Result<Layer, Failure> {
    let values = json!({
        "batch_size": 8,
        "learning_rate": 1e-4,
        "num_epochs": 3,
        "gradient_accumulation_steps": 1,
        "world_size": 1,
        "backend": "grpc",
        "optimizer": "adamw",
        "scheduler": "cosine",
        "warmup_steps": 100,
        "save_steps": 100,
        "output_dir": "./outputs",
    });
    let values = values.as_object().cloned().unwrap_or_default();
    layer(Origin::Flat, values, BTreeMap::new())
}

/// The flat keys for the published schema, with the schema of the keys that they stand for.
pub(super) fn properties(host: &Value) -> impl Iterator<Item = (&'static str, Value)> {
    KEYS.iter().map(|flat| {
        let warmup = || Some(json!({ "type": "integer", "minimum": 0 })).filter(|_| flat.name == "warmup_steps");
        let known = host["properties"][flat.section]["properties"].get(flat.key).cloned();
        let mut property = known.or_else(warmup).unwrap_or(json!({}));
        property["description"] = format!("In flat files: `{}`.", flat.place()).into();
        if let Some(property) = property.as_object_mut() {
            // Flat files have another default.
            property.remove("default");
        }
        (flat.name, property)
    })
}
