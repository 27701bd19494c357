//! The JSON values that every source of a configuration is read into, and words for them.

use serde_json::Value;

/// A JSON object: the form that every file format, the environment and `--set` are read into.
pub(super) type Table = serde_json::Map<String, Value>;

/// The place of a value: the keys that lead to it.
pub(super) type Path = Vec<String>;

/// What a value is, in words: `the string "8"`.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) if n.is_f64() => format!("the number {n}"),
        Value::Number(n) => format!("the integer {n}"),
        Value::String(_) => format!("the string {value}"),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "a table".into(),
    }
}

/// A TOML value as JSON; dates become strings.
///
/// # Errors
/// nan and the infinities, which no setting can be.
pub(super) fn from_toml(value: toml::Value) -> Result<Value, String> {
    Ok(match value {
        toml::Value::String(s) => s.into(),
        toml::Value::Integer(i) => i.into(),
        toml::Value::Float(f) => finite(f)?,
        toml::Value::Boolean(b) => b.into(),
        toml::Value::Datetime(d) => d.to_string().into(),
        toml::Value::Array(items) => items.into_iter().map(from_toml).collect::<Result<_, _>>()?,
        toml::Value::Table(table) => {
            let entries = table.into_iter().map(|(key, value)| Ok((key, from_toml(value)?)));
            Value::Object(entries.collect::<Result<_, String>>()?)
        }
    })
}

/// A finite number as JSON.
///
/// # Errors
/// nan and the infinities, which JSON does not have.
pub(super) fn finite(number: f64) -> Result<Value, String> {
    serde_json::Number::from_f64(number).map(Value::Number).ok_or_else(|| format!("{number} is not a finite number"))
}
