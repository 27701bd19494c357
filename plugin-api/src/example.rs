//! Examples: the rows that a data source reads and a trainer turns into tokens.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::datum::entries;
use crate::{Datum, Error, Result};

/// One row of a data set: named values.
///
/// Names are those of the row's columns. A trainer reads those that it knows and passes over the others; `sft` reads
/// `messages`, or `prompt` and `completion`, or `text`. A null value counts as missing.
///
/// ```
/// use mdt_plugin_api::Example;
///
/// let example = Example::new(812).with("prompt", "2 + 2 = ").with("completion", "4").with("score", 0.5);
/// assert_eq!(example.text("completion")?, "4");
/// assert_eq!(example.number("score")?, 0.5);
/// assert_eq!(example.text("chosen").unwrap_err().message(), "the row has no `chosen`");
/// # Ok::<(), mdt_plugin_api::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// The number of the row in its source, from 1: the line number in files with a row per line.
    pub row: u64,
    /// Its values by name, in their order. No name is there twice.
    #[serde(with = "entries")]
    pub values: Vec<(String, Datum)>,
}

/// One turn of a conversation. As a value of an example it is a map of all its fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`.
    pub role: String,
    /// The text; empty where a turn has tool calls only.
    pub content: String,
    /// Further fields for the chat template (`name`, `tool_calls`, …). A `content` of null among them says that the
    /// turn has none, which is not the same to a template as an empty one.
    pub extra: Map<String, Value>,
}

impl Message {
    /// A turn of this role with this text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), extra: Map::new() }
    }
}

impl Example {
    /// A row of this number without values.
    pub fn new(row: u64) -> Self {
        Self { row, values: Vec::new() }
    }

    /// The row with one more value; it replaces one of the same name.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Datum>) -> Self {
        self.set(name, value);
        self
    }

    /// Gives the row a value; it replaces one of the same name.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<Datum>) {
        let (name, value) = (name.into(), value.into());
        match self.values.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.values.push((name, value)),
        }
    }

    /// The value of this name, unless it is missing or null.
    pub fn get(&self, name: &str) -> Option<&Datum> {
        self.values.iter().find(|(known, _)| known == name).map(|(_, value)| value).filter(|value| !value.is_null())
    }

    /// Whether there is a value of this name that is not null.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The text of this name.
    ///
    /// # Errors
    /// It is missing, or no text; the same for the other types below.
    pub fn text(&self, name: &str) -> Result<&str> {
        self.typed(name, "text", |value| match value {
            Datum::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// The number of this name: an integer or a real number.
    pub fn number(&self, name: &str) -> Result<f64> {
        self.typed(name, "a number", |value| match value {
            Datum::Integer(number) => Some(*number as f64),
            Datum::Real(number) => Some(*number),
            _ => None,
        })
    }

    /// The integer of this name.
    pub fn integer(&self, name: &str) -> Result<i64> {
        self.typed(name, "an integer of 64 bits", |value| match value {
            Datum::Integer(number) => i64::try_from(*number).ok(),
            _ => None,
        })
    }

    /// The truth value of this name.
    pub fn boolean(&self, name: &str) -> Result<bool> {
        self.typed(name, "true or false", |value| match value {
            Datum::Bool(value) => Some(*value),
            _ => None,
        })
    }

    /// The bytes of this name.
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        self.typed(name, "bytes", |value| match value {
            Datum::Bytes(bytes) => Some(bytes.as_slice()),
            _ => None,
        })
    }

    /// The list of this name.
    pub fn list(&self, name: &str) -> Result<&[Datum]> {
        self.typed(name, "a list", |value| match value {
            Datum::List(items) => Some(items.as_slice()),
            _ => None,
        })
    }

    /// The map of this name.
    pub fn map(&self, name: &str) -> Result<&[(String, Datum)]> {
        self.typed(name, "a map", |value| match value {
            Datum::Map(entries) => Some(entries.as_slice()),
            _ => None,
        })
    }

    /// The conversation of this name: a list of maps, each with `role` and `content`. A turn that calls tools may lack
    /// its content.
    ///
    /// # Errors
    /// It is missing or empty, or a turn is not such a map; the error names the turn.
    pub fn messages(&self, name: &str) -> Result<Vec<Message>> {
        let turns = self.typed(name, "a list of { role, content }", |value| match value {
            Datum::List(turns) => Some(turns),
            _ => None,
        })?;
        if turns.is_empty() {
            return Err(Error::input(format!("`{name}` is empty")));
        }
        turns.iter().enumerate().map(|(index, turn)| turn.message(&format!("{name}[{index}]"))).collect()
    }

    /// About how many bytes of memory it takes.
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.values.iter().map(|(name, value)| name.len() + value.size()).sum::<usize>()
    }

    fn typed<'a, T>(&'a self, name: &str, expected: &str, read: impl FnOnce(&'a Datum) -> Option<T>) -> Result<T> {
        let Some(value) = self.get(name) else {
            let names: Vec<&str> = self.values.iter().map(|(name, _)| name.as_str()).collect();
            let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(Error::input(format!("the row has no `{name}`")).with("columns found", found));
        };
        read(value).ok_or_else(|| Error::input(format!("`{name}` must be {expected}, not {}", value.type_name())))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_of_another_type_is_an_error_that_names_it() {
        let example =
            Example::new(1).with("a", "x").with("b", 2).with("c", Datum::Null).with("d", vec![Datum::from(true)]);
        for (error, message) in [
            (example.number("a").unwrap_err(), "`a` must be a number, not text"),
            (example.text("b").unwrap_err(), "`b` must be text, not an integer"),
            (example.boolean("c").unwrap_err(), "the row has no `c`"),
            (example.bytes("d").unwrap_err(), "`d` must be bytes, not a list"),
            (example.messages("a").unwrap_err(), "`a` must be a list of { role, content }, not text"),
            (example.messages("d").unwrap_err(), "`d[0]` must be a map with role and content, not a truth value"),
        ] {
            assert_eq!(error.message(), message);
        }
        let error = example.text("e").unwrap_err();
        assert_eq!(error.context(), [("columns found".to_owned(), "a, b, c, d".to_owned())]);
        assert_eq!(example.number("b").unwrap(), 2.0);
        assert!(!example.has("c") && example.has("d"));
    }

    #[test]
    fn messages_are_maps_and_come_back_as_they_were() {
        let Value::Object(extra) =
            json!({ "content": null, "tool_calls": [{ "name": "f", "arguments": { "b": 1, "a": 2.5 } }] })
        else {
            panic!("an object")
        };
        let messages = vec![Message::new("user", "Hi"), Message { extra, ..Message::new("assistant", "") }];
        let example = Example::new(1).with("messages", messages.clone());
        assert_eq!(example.messages("messages").unwrap(), messages);
        let error = |turn: Value| Example::new(1).with("m", Datum::from(json!([turn]))).messages("m").unwrap_err();
        assert_eq!(error(json!({ "content": "a" })).message(), "`m[0]` has no `role`");
        assert_eq!(error(json!({ "role": "user" })).message(), "`m[0]` has no `content`");
        assert_eq!(
            error(json!({ "role": "user", "content": 1 })).message(),
            "`m[0].content` must be text, not an integer"
        );
    }

    #[test]
    fn a_later_value_replaces_one_of_the_same_name() {
        assert_eq!(
            Example::new(1).with("a", 1).with("b", 2).with("a", "x"),
            Example::new(1).with("a", "x").with("b", 2)
        );
    }
}
