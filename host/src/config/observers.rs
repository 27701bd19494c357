//! `observers`: a list of components, each with keys of its own.

use super::check::{check, settle_numbers};
use super::components::{Components, Kind};
use super::errors;
use super::merge::Merged;
use super::schema::Shape;
use super::section_schema::combine;
use crate::exit::Failure;
use crate::nearest::nearest;
use serde_json::{Value, json};

/// The section's name.
pub(super) const NAME: &str = "observers";

/// Gives every observer the defaults of its component, and checks its keys.
///
/// # Errors
/// A component that is missing or cannot be used, an unknown key, a value that may not be.
pub(super) fn complete(host: &Value, merged: &mut Merged, components: &dyn Components) -> Result<(), Failure> {
    let mut observers = merged.values[NAME].take();
    for (number, observer) in observers.as_array_mut().into_iter().flatten().enumerate() {
        let origin = || merged.origin(&[NAME.to_owned()]);
        let id = observer["use"].as_str().unwrap_or_default().to_owned();
        let schema =
            schema(host, components, &id).map_err(|failure| origin().into_iter().fold(failure, Failure::at))?;
        let shape = Shape::of(&schema);
        if let Some(unknown) = shape.unknown_keys(observer).first() {
            let failure = Failure::configuration(format!("unknown key `{NAME}.{number}.{}`", unknown.join(".")));
            let failure = origin().into_iter().fold(failure, Failure::at);
            let keys = shape.keys();
            return Err(match unknown.first().and_then(|key| nearest(key, keys.iter().copied())) {
                Some(near) => failure.help(format!("did you mean `{near}`?")),
                None => failure.help(format!("the keys of the observer `{id}` are: {}", keys.join(", "))),
            });
        }
        fill(observer, Value::Object(shape.defaults()));
        settle_numbers(&shape, observer);
        let mut path = vec![NAME.to_owned(), number.to_string()];
        check(&schema, observer, &mut path).map_err(|mismatch| errors::mismatch(&mismatch, merged))?;
    }
    merged.values[NAME] = observers;
    Ok(())
}

/// The schema of a file's `observers`: names, or tables with the keys of each component. Failures of components that
/// cannot be used are added to `left_out`.
pub(super) fn full_schema(host: &Value, components: &dyn Components, left_out: &mut Vec<Failure>) -> Value {
    let mut branches = vec![json!({ "type": "string" })];
    for id in components.ids(Kind::Observer) {
        match schema(host, components, &id) {
            Ok(mut table) => {
                table["properties"]["use"] = json!({ "const": id });
                branches.push(table);
            }
            Err(failure) => left_out.push(failure),
        }
    }
    let list = json!({ "type": "array", "items": { "anyOf": branches } });
    json!({ "description": host["properties"][NAME]["description"], "anyOf": [{ "type": "string" }, list] })
}

/// The host's keys of an observer, and those of its component.
fn schema(host: &Value, components: &dyn Components, id: &str) -> Result<Value, Failure> {
    let own = components.schema(Kind::Observer, id)?;
    let mut schema = combine(&host["properties"][NAME]["items"], &own);
    schema["required"] = json!(["use"]);
    Ok(schema)
}

/// Adds what is missing, in tables inside too.
fn fill(value: &mut Value, defaults: Value) {
    if let (Value::Object(table), Value::Object(defaults)) = (value, defaults) {
        for (key, default) in defaults {
            match table.get_mut(&key) {
                Some(value) => fill(value, default),
                None => drop(table.insert(key, default)),
            }
        }
    }
}
