//! What a checkpoint that is used as a model brings with it: how its job made tokens of text and, where it is not trained further,
//! how that computed. It is a layer below all that the user writes.

use std::path::Path;

use serde_json::{Map, Value};

use super::layer::Layer;
use super::origin::Origin;
use crate::exit::Failure;
use crate::model::Source;
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

/// The layer of the checkpoint that these layers name as the model or the adapter; none where they name none.
pub(super) fn layer(layers: &[Layer]) -> Result<Option<Layer>, Failure> {
    let named = |keys: &[&str]| {
        // The last layer that says anything about it decides, also where that is nothing.
        let said = |layer: &'_ Layer| {
            keys.iter()
                .try_fold(layer.values.get("model")?, |value, key| match value {
                    Value::Null => Some(value),
                    value => value.get(key),
                })
                .cloned()
        };
        let (layer, value) = layers.iter().rev().find_map(|layer| Some((layer, said(layer)?)))?;
        let (path, job) = Source::job_of(Path::new(value.as_str()?))?;
        Some((layer, path, job))
    };
    let Some((by, path, job)) = named(&["adapter", "path"]).or_else(|| named(&["path"])) else { return Ok(None) };
    let is_used = matches!(by.origin_of(&[]), Origin::Flag(_));
    let mut values = Map::new();
    for &section in if is_used { &OF_USE[..] } else { &OF_TEXT[..] } {
        let mut keys = set(&job[section]);
        LEFT_OUT.iter().filter(|(of, _)| *of == section).for_each(|(_, key)| drop(keys.shift_remove(*key)));
        values.insert(section.to_owned(), Value::Object(keys));
    }
    let mut model = set(&job["model"]);
    model.retain(|key, _| key == "use" || is_used && key == "quantize");
    values.insert("model".to_owned(), Value::Object(model));
    Layer::new(Origin::Checkpoint(path), values, BTreeMap::new()).map(Some)
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
