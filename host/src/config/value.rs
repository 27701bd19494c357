//! The JSON values that all sources of a configuration are read into.

use serde_json::Value;
use toml::de::DeValue;

/// A JSON object: the form that every file format, the environment and `--set` are read into.
pub(super) type Table = serde_json::Map<String, Value>;

/// The keys that lead to a value.
pub(super) type Path = Vec<String>;

/// The limit of nested tables and lists.
pub(super) const DEPTH: usize = 64;

/// A value as messages name it: `the string "8"`.
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

/// The value of a text that is TOML, or why no setting can have it; none if the text is not TOML.
pub(super) fn parse_toml(text: &str) -> Option<Result<Value, String>> {
    let value = DeValue::parse(text.trim()).ok()?;
    Some(from_toml(value.get_ref()))
}

/// A TOML value as JSON; dates become strings. Integers may have 64 bits with or without a sign.
///
/// # Errors
/// The value has nan, an infinity or a number beyond 64 bits, which no setting can be.
pub(super) fn from_toml(value: &DeValue<'_>) -> Result<Value, String> {
    Ok(match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Integer(number) => {
            let (text, radix) = (number.as_str(), number.radix());
            let signed = i64::from_str_radix(text, radix).map(Value::from);
            let either = signed.or_else(|_| u64::from_str_radix(text, radix).map(Value::from));
            either.map_err(|_| format!("{number} is beyond 64 bits"))?
        }
        DeValue::Float(number) => match number.as_str().parse::<f64>().map_err(|error| error.to_string())? {
            large if large.is_infinite() && !number.as_str().contains("inf") => {
                return Err(format!("{number} is beyond 64 bits"));
            }
            number => finite(number)?,
        },
        DeValue::Boolean(value) => (*value).into(),
        DeValue::Datetime(date) => date.to_string().into(),
        DeValue::Array(items) => items.iter().map(|item| from_toml(item.get_ref())).collect::<Result<_, _>>()?,
        DeValue::Table(table) => {
            let entries = table.iter().map(|(key, value)| Ok((key.get_ref().to_string(), from_toml(value.get_ref())?)));
            Value::Object(entries.collect::<Result<_, String>>()?)
        }
    })
}

/// A finite number as JSON.
///
/// # Errors
/// The number is nan or an infinity, which JSON does not have.
pub(super) fn finite(number: f64) -> Result<Value, String> {
    serde_json::Number::from_f64(number).map(Value::Number).ok_or_else(|| format!("{number} is not a finite number"))
}
