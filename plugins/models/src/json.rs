//! Reads keys of a `config.json`; errors name the key.

use std::cell::RefCell;
use std::collections::BTreeSet;

use mdt_plugin_api::serde_json::{Map, Value};
use mdt_plugin_api::{Error, Result};

/// The largest size that arrays may have in any direction: devices count in 32 bits.
pub const LARGEST_SIZE: u64 = i32::MAX as u64;

/// A JSON object of a `config.json`, and where it lies in it.
pub struct Object<'a> {
    map: &'a Map<String, Value>,
    path: String,
    /// The keys that were asked for.
    read: RefCell<BTreeSet<String>>,
}

impl<'a> Object<'a> {
    /// The whole file.
    ///
    /// # Errors
    /// It is no JSON object.
    pub fn root(value: &'a Value) -> Result<Self> {
        match value {
            Value::Object(map) => Ok(Self::new(map, String::new())),
            other => Err(Error::input(format!("config.json must hold a JSON object, not {other}"))),
        }
    }

    fn new(map: &'a Map<String, Value>, path: String) -> Self {
        Self { map, path, read: RefCell::default() }
    }

    /// What stands under keys that nobody has asked for, null left out.
    pub fn unread(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let unread = |(key, value): &(&String, &Value)| !value.is_null() && !self.read.borrow().contains(*key);
        self.map.iter().filter(unread).map(|(key, value)| (key.as_str(), value))
    }

    /// An object inside; `None` where it is absent or null.
    pub fn object(&self, key: &str) -> Result<Option<Self>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self::new(map, self.name(key)))),
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

    /// A part of all, which is less than 1; 0 where it is absent.
    pub fn rate(&self, key: &str) -> Result<f64> {
        let is_rate = |&number: &f64| (0.0..1.0).contains(&number);
        let rate = self.read(key, "a number from 0 to below 1", |value| value.as_f64().filter(is_rate))?;
        Ok(rate.unwrap_or(0.0))
    }

    /// Whether it is `true`; `false` where it is absent.
    pub fn flag(&self, key: &str) -> Result<bool> {
        Ok(self.boolean(key)?.unwrap_or(false))
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

    /// A list of whole numbers ≥ 0.
    pub fn counts(&self, key: &str) -> Result<Option<Vec<u64>>> {
        self.read(key, "a list of whole numbers", |value| value.as_array()?.iter().map(Value::as_u64).collect())
    }

    /// A list of numbers > 0.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let positive = |value: &Value| value.as_f64().filter(|&number| number > 0.0);
        self.read(key, "a list of numbers above 0", |value| value.as_array()?.iter().map(positive).collect())
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
        self.read.borrow_mut().insert(key.to_owned());
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
