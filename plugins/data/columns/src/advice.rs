//! Errors for rows of no known format: what is missing, what is there, and how to map it.

use mdt_plugin_api::Error;
use mdt_plugin_api::serde_json::{Map, Value};

use super::{Column, Columns, Format, path};

/// Names that public data sets use for our columns.
const OTHER_NAMES: [(&str, &[&str]); 6] = [
    ("messages", &["conversation", "conversations", "chat", "dialog", "dialogue", "turns"]),
    ("conversations", &["conversation", "chat", "dialog", "dialogue", "turns", "messages"]),
    ("prompt", &["question", "instruction", "input", "query", "problem", "user"]),
    ("completion", &["answer", "output", "response", "target", "solution", "assistant"]),
    ("output", &["response", "answer", "completion", "target", "solution"]),
    ("text", &["content", "body", "document"]),
];

/// How alike a misspelt name must be to be suggested, from 0 to 1.
const ALIKE: f64 = 0.7;

/// The error for a row that has the columns of no format that is looked for.
pub(super) fn missing_columns(columns: &Columns, row: &Map<String, Value>) -> Error {
    let missing = |format: Format| columns.columns(format).filter(|column| path::get(row, column.theirs).is_none());
    // One column is enough to tell which format was meant, but for `output`, which is not only Alpaca's.
    let begins = |format: Format, column: Column<'_>| {
        path::get(row, column.theirs).is_some() && !(format == Format::Alpaca && column.theirs == "output")
    };
    let begun = columns.candidates.iter().find(|&&format| columns.columns(format).any(|column| begins(format, column)));
    let message = match (begun, columns.candidates.as_slice()) {
        (Some(&format), _) | (None, &[format]) => format!("the row has no {}", quoted(missing(format), " and no ")),
        (None, formats) => {
            let formats: Vec<String> = formats.iter().map(|&format| quoted(columns.columns(format), " + ")).collect();
            format!("the row has none of {}", formats.join(", "))
        }
    };
    let considered = begun.map_or(columns.candidates.as_slice(), std::slice::from_ref);
    let mapping = considered.iter().find_map(|&format| mapping(columns, format, row));
    let advice = match mapping {
        Some(mapping) if mapping.is_empty() => {
            "the row has our own names, and data.fields maps others: remove that mapping".to_owned()
        }
        Some(mapping) => format!("if that is what it is, map it: data.fields = {{ {mapping} }}"),
        None => {
            "map the columns that it has, such as data.fields = { prompt = \"question\", completion = \"answer\" }; or \
                 set data.format = \"columns\" for a trainer that reads others"
                .to_owned()
        }
    };
    Error::input(message).with("keys found", keys(row)).help(advice)
}

/// The error for a value of another type.
pub(super) fn wrong_type(what: &str, expected: &str, found: &Value) -> Error {
    Error::input(format!("`{what}` must be {expected}, not {}", type_of(found)))
}

/// What a value is, with its article.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// The keys of an object, for an error.
pub(super) fn keys(object: &Map<String, Value>) -> String {
    if object.is_empty() {
        return "none".to_owned();
    }
    object.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// The name in `names` that is most like this one, if any is.
pub(super) fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|candidate| (strsim::jaro_winkler(&name.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// Entries of `data.fields` that would make the row one of this format, if it has keys that look like its columns.
fn mapping(columns: &Columns, format: Format, row: &Map<String, Value>) -> Option<String> {
    let mut taken: Vec<&str> = columns.columns(format).map(|column| column.theirs).collect();
    let mut entries = Vec::new();
    for column in columns.columns(format) {
        let free = || {
            row.iter()
                .filter(|(key, value)| !taken.contains(&key.as_str()) && may_be(column, value))
                .map(|(key, _)| key.as_str())
        };
        let theirs = if path::get(row, column.theirs).is_some() {
            column.theirs
        } else {
            free().find(|key| is_other_name(column, key)).or_else(|| nearest(column.ours, free()))?
        };
        taken.push(theirs);
        if theirs != column.ours {
            entries.push(format!("{} = {theirs:?}", column.ours));
        }
    }
    Some(entries.join(", "))
}

/// Whether the value could be of this column, so far as conversations are told apart by their turns.
fn may_be(column: Column<'_>, value: &Value) -> bool {
    let is_sharegpt = value.get(0).is_some_and(|turn| turn.get("from").is_some());
    match column.ours {
        "messages" => !is_sharegpt,
        "conversations" => is_sharegpt,
        _ => true,
    }
}

fn is_other_name(column: Column<'_>, key: &str) -> bool {
    OTHER_NAMES
        .iter()
        .any(|(ours, others)| *ours == column.ours && others.iter().any(|other| other.eq_ignore_ascii_case(key)))
}

fn quoted<'a>(columns: impl Iterator<Item = Column<'a>>, separator: &str) -> String {
    columns.map(|column| format!("`{}`", column.theirs)).collect::<Vec<_>>().join(separator)
}
