//! What a checkpoint that is used as a model brings with it: how its job made tokens of text and, where it is not trained further,
//! how that computed. What training and `export` write has a record that brings the same of text. Either is a layer below all
//! that the user writes.

use std::path::Path;

use serde_json::{Map, Value};

use super::layer::Layer;
use super::origin::Origin;
use super::sections::{Tokenizer, Trainer};
use crate::exit::Failure;
use crate::model::{Source, in_cache};
use crate::training_format::TrainingFormat;
use std::collections::BTreeMap;

/// The sections of the job that text depends on.
const OF_TEXT: [&str; 1] = ["tokenizer"];

/// Those that numbers depend on, too.
const OF_USE: [&str; 3] = ["tokenizer", "trainer", "compute"];

/// Keys of them that are about training, or about the machine.
const LEFT_OUT: [(&str, &str); 9] = [
    ("trainer", "num_epochs"),
    ("trainer", "max_steps"),
    ("trainer", "gradient_accumulation_steps"),
    ("trainer", "eval_steps"),
    ("trainer", "eval_at_start"),
    ("trainer", "early_stopping_patience"),
    ("trainer", "early_stopping_min_delta"),
    ("compute", "threads"),
    ("compute", "device"),
];

/// The layer of the checkpoint, or of the trained model or adapter, that these layers name; none where they name none.
///
/// # Errors
/// A record cannot be read.
pub(super) fn layer(layers: &[Layer]) -> Result<Option<Layer>, Failure> {
    for keys in [&["adapter", "path"][..], &["path"]] {
        let Some((by, path)) = named(layers, keys) else { continue };
        let is_used = matches!(by.origin_of(&[]), Origin::Flag(_));
        if let Some(layer) = of_path(Path::new(&path), is_used, layers)? {
            return Ok(Some(layer));
        }
    }
    let Some((by, name)) = named(layers, &["name"]) else { return Ok(None) };
    let revision = named(layers, &["revision"]).map(|(_, revision)| revision);
    match in_cache(&name, revision.as_deref(), false) {
        Ok(path) => of_path(&path, matches!(by.origin_of(&[]), Origin::Flag(_)), layers),
        Err(_) => Ok(None),
    }
}

/// The text of a key of `model`, and the layer that has it. The last layer that says anything about it decides, also where that is
/// nothing.
fn named<'a>(layers: &'a [Layer], keys: &[&str]) -> Option<(&'a Layer, String)> {
    let said = |layer: &'a Layer| {
        keys.iter().try_fold(layer.values.get("model")?, |value, key| match value {
            Value::Null => Some(value),
            value => value.get(key),
        })
    };
    let (layer, value) = layers.iter().rev().find_map(|layer| Some((layer, said(layer)?)))?;
    Some((layer, value.as_str()?.to_owned()))
}

/// The layer of what a path leads to.
fn of_path(path: &Path, is_used: bool, layers: &[Layer]) -> Result<Option<Layer>, Failure> {
    let sections = if is_used { &OF_USE[..] } else { &OF_TEXT[..] };
    let record = TrainingFormat::recorded(path)?;
    let Some((path, job)) = Source::job_of(path) else {
        return record.map(|record| of_record(&record, sections, layers)).transpose();
    };
    let mut values = Map::new();
    for &section in sections {
        let mut keys = set(&job[section]);
        LEFT_OUT.iter().filter(|(of, _)| *of == section).for_each(|(_, key)| drop(keys.shift_remove(*key)));
        values.insert(section.to_owned(), Value::Object(keys));
    }
    if let (Some(Value::Object(tokenizer)), Some(record)) = (values.get_mut("tokenizer"), record) {
        // Its templates as they were: their files may have changed since.
        let chosen = tokenizer.get("use").and_then(Value::as_str).unwrap_or_default().to_owned();
        tokenizer.extend(record.keys("tokenizer", &chosen));
    }
    let mut model = set(&job["model"]);
    model.retain(|key, _| key == "use" || is_used && key == "quantize");
    values.insert("model".to_owned(), Value::Object(model));
    Layer::new(Origin::Checkpoint(path), values, BTreeMap::new()).map(Some)
}

/// The layer of a record: the keys of the components that these layers choose, too.
fn of_record(record: &TrainingFormat, sections: &[&str], layers: &[Layer]) -> Result<Layer, Failure> {
    let defaults = [("tokenizer", Tokenizer::default().id), ("trainer", Trainer::default().id)];
    let own = defaults.into_iter().filter(|(section, _)| sections.contains(section)).map(|(section, default)| {
        let chosen = layers.iter().rev().find_map(|layer| layer.choice(section)).unwrap_or(&default).to_owned();
        (section.to_owned(), Value::Object(record.keys(section, &chosen)))
    });
    Layer::new(Origin::Record(record.place().to_owned()), own.collect(), BTreeMap::new())
}

/// The keys of a table that are set.
fn set(table: &Value) -> Map<String, Value> {
    table
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, value)| !value.is_null())
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}
