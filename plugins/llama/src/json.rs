//! Reads keys of a `config.json`; errors name the key.

use mdt_plugin_api::serde_json::{Map, Value};
use mdt_plugin_api::{Error, Result};

/// The largest size that arrays may have in any direction: devices count in 32 bits.
pub const LARGEST_SIZE: u64 = i32::MAX as u64;

/// A JSON object of a `config.json`, and where it lies in it.
#[derive(Clone, Copy)]
pub struct Object<'a> {
    map: &'a Map<String, Value>,
    path: &'static str,
}

impl<'a> Object<'a> {
    /// The whole file.
    ///
    /// # Errors
    /// It is no JSON object.
    pub fn root(value: &'a Value) -> Result<Self> {
        match value {
            Value::Object(map) => Ok(Self { map, path: "" }),
            other => Err(Error::input(format!("config.json must hold a JSON object, not {other}"))),
        }
    }

    /// An object inside; `None` where it is absent or null.
    pub fn object(&self, key: &'static str) -> Result<Option<Self>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self { map, path: key })),
            Some(other) => Err(self.wrong(key, other, "an object")),
        }
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Whether the key is there, null included.
    pub fn contains(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// A whole number ≥ 0.
    pub fn count(&self, key: &str) -> Result<Option<usize>> {
        self.read(key, "a whole number", |value| value.as_u64().and_then(|number| usize::try_from(number).ok()))
    }

    /// A whole number from 1 to [`LARGEST_SIZE`].
    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        let size = self.read(key, "a whole number, at least 1", |value| value.as_u64().filter(|&number| number > 0))?;
        match size {
            Some(size) if size > LARGEST_SIZE => {
                Err(self.refuse(key, format!("is {size}, which no model has: it may be {LARGEST_SIZE} at most")))
            }
            size => Ok(size.map(|size| size as usize)),
        }
    }

    /// A number.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.read(key, "a number", Value::as_f64)
    }

    /// A number > 0.
    pub fn positive(&self, key: &str) -> Result<Option<f64>> {
        self.read(key, "a number above 0", |value| value.as_f64().filter(|&number| number > 0.0))
    }

    /// `true` or `false`.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>> {
        self.read(key, "true or false", Value::as_bool)
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.read(key, "a text", |value| value.as_str())
    }

    /// A list of texts.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        self.read(key, "a list of texts", |value| value.as_array()?.iter().map(Value::as_str).collect())
    }

    /// The value of a key that must be there.
    pub fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| Error::input(format!("config.json lacks {}", self.name(key))).with("key", self.name(key)))
    }

    /// An error about a key.
    pub fn refuse(&self, key: &str, why: impl std::fmt::Display) -> Error {
        Error::input(format!("config.json: {} {why}", self.name(key))).with("key", self.name(key))
    }

    /// transformers writes null where a value is not set.
    fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn read<T>(&self, key: &str, expected: &str, read: impl FnOnce(&'a Value) -> Option<T>) -> Result<Option<T>> {
        self.value(key).map(|value| read(value).ok_or_else(|| self.wrong(key, value, expected))).transpose()
    }

    fn wrong(&self, key: &str, value: &Value, expected: &str) -> Error {
        // A list may have a million entries.
        self.refuse(key, format!("must be {expected}, not {:.100}", value.to_string()))
    }

    fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}
