//! Messages about wrong keys and values, with the nearest fix.

use super::check::Mismatch;
use super::flat;
use super::layer::Layer;
use super::merge::Merged;
use super::schema::{Child, Shape};
use super::sections::Comm;
use super::value::{Path, describe, parse_toml};
use crate::exit::Failure;
use crate::nearest::nearest;
use serde_json::Value;

/// Keys that are called otherwise than one might think: the first name is no key, and why to take which one instead.
const ELSEWHERE: [[&str; 2]; 4] = [
    ["trainer.chat_template", "conversations are rendered by the tokenizer: set `tokenizer.chat_template`"],
    [
        "trainer.chat_template_kwargs",
        "conversations are rendered by the tokenizer: set `tokenizer.chat_template_kwargs`",
    ],
    ["trainer.template_date", "conversations are rendered by the tokenizer: set `tokenizer.template_date`"],
    ["trainer.gradient_checkpointing", "set `trainer.checkpoint_activations` to \"all\" or \"none\""],
];

/// An unknown key of `layer`. `schema` is the whole schema, `host` that of the host's own keys.
pub(super) fn unknown_key(
    host: &Value,
    schema: &Value,
    path: &Path,
    component: Option<&str>,
    layer: &Layer,
) -> Failure {
    let failure = Failure::configuration(format!("unknown key `{}`", path.join("."))).at(layer.origin_of(path));
    let Some((last, around)) = path.split_last() else {
        return failure;
    };
    if let Some([_, help]) = ELSEWHERE.iter().find(|[key, _]| path.join(".") == *key) {
        return failure.help(*help);
    }
    let siblings = around.iter().try_fold(Shape::of(schema), |shape, key| match shape.child(key) {
        Child::Known(inner) => Some(inner),
        _ => None,
    });
    let keys = siblings.map(|shape| shape.keys()).unwrap_or_default();
    let full = |key: &str| around.iter().map(String::as_str).chain([key]).collect::<Vec<_>>().join(".");
    let elsewhere = || {
        let sections = host["properties"].as_object().into_iter().flatten();
        let mut holders = sections.filter(|(_, section)| section["properties"].get(last).is_some());
        holders.next().map(|(section, _)| format!("{section}.{last}"))
    };
    let flat_keys = || flat::KEYS.iter().filter(|_| around.is_empty());
    let near = nearest(last, keys.iter().copied().chain(flat_keys().map(|flat| flat.name)));
    let near = near.map(|near| match flat_keys().find(|flat| flat.name == near) {
        Some(flat) if layer.is_flat() => flat.name.to_owned(),
        Some(flat) => flat.place(),
        None => full(near),
    });
    if let Some(near) = near.or_else(elsewhere) {
        return failure.help(format!("did you mean `{near}`?"));
    }
    let table = match (around, component) {
        ([], _) => "a configuration".to_owned(),
        (around, Some(id)) => format!("`{}` with `use = \"{id}\"`", around.join(".")),
        (around, None) => format!("`{}`", around.join(".")),
    };
    failure.help(format!("the keys of {table} are: {}", keys.join(", ")))
}

/// A value that its schema does not allow.
pub(super) fn mismatch(mismatch: &Mismatch, merged: &Merged) -> Failure {
    let key = mismatch.path.join(".");
    let Some(found) = &mismatch.found else {
        let missing = format!("`{key}` is not set, and has no default: {} is expected", mismatch.expected);
        return Failure::configuration(missing);
    };
    let expected = &mismatch.expected;
    let wants_number = expected.contains("number") || expected.contains("integer");
    let number = found.as_str().filter(|_| wants_number).and_then(parse_toml);
    let is = match &number {
        Some(Err(why)) => format!("out of range: {why}"),
        _ => describe(found),
    };
    let failure = Failure::configuration(format!("`{key}` is {is}, where {expected} is expected"));
    // The path may be inside a list, whose elements have no origin.
    let origin = (1..=mismatch.path.len()).rev().find_map(|n| merged.origin(&mismatch.path[..n]));
    let failure = origin.into_iter().fold(failure, Failure::at);
    match found {
        Value::Number(_) | Value::Bool(_) if expected.contains("a string") => {
            failure.help(format!("write it in quotes: '\"{found}\"'"))
        }
        Value::String(text) if matches!(number, Some(Ok(Value::Number(_)))) => {
            failure.help(format!("write it without quotes: {text}"))
        }
        Value::String(text) => match nearest(text, expected.split('"').skip(1).step_by(2)) {
            Some(near) => failure.help(format!("did you mean \"{near}\"?")),
            None => failure,
        },
        _ => failure,
    }
}

/// `comm.rank` is not below `comm.world_size`.
pub(super) fn rank_outside_world(comm: &Comm, merged: &Merged) -> Failure {
    let Comm { rank, world_size, .. } = comm;
    let message = format!("`comm.rank` is {rank}, where `comm.world_size` is {world_size}");
    let failure = Failure::configuration(message).help(format!("ranks count from 0 to {}", world_size - 1));
    merged.origin(&["comm".to_owned(), "rank".to_owned()]).into_iter().fold(failure, Failure::at)
}
