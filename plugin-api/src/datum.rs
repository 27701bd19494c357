//! Values of examples, which may be nested.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Error as _, Serialize, SerializeMap, Serializer};
use serde_json::{Map, Number, Value};

use crate::{Error, Message, Result};

/// A value of an [`Example`](crate::Example): all that JSON has, and bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Datum {
    /// Nothing, as in a table whose row lacks a column.
    #[default]
    Null,
    /// True or false.
    Bool(bool),
    /// An integer; only those that fit into 64 bits, with or without a sign, reach a trainer.
    Integer(i128),
    /// A real number; it may be infinite or NaN.
    Real(f64),
    /// Text.
    Text(String),
    /// Bytes, such as those of an image.
    Bytes(Vec<u8>),
    /// Values in their order.
    List(Vec<Datum>),
    /// Values by name, in their order.
    Map(Vec<(String, Datum)>),
}

impl Datum {
    /// Whether it is nothing.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// It as JSON: bytes become an array of numbers, and a number that is not finite becomes null.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Integer(number) => {
                Number::from_i128(*number).map_or_else(|| Value::from(*number as f64), Value::Number)
            }
            Self::Real(number) => Value::from(*number),
            Self::Text(text) => Value::from(text.as_str()),
            Self::Bytes(bytes) => bytes.iter().copied().collect(),
            Self::List(items) => items.iter().map(Self::to_json).collect(),
            Self::Map(entries) => {
                Value::Object(entries.iter().map(|(name, value)| (name.clone(), value.to_json())).collect())
            }
        }
    }

    /// About how many bytes of memory it takes.
    pub(crate) fn size(&self) -> usize {
        let content = match self {
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::List(items) => items.iter().map(Self::size).sum(),
            Self::Map(entries) => entries.iter().map(|(name, value)| name.len() + value.size()).sum(),
            Self::Null | Self::Bool(_) | Self::Integer(_) | Self::Real(_) => 0,
        };
        size_of::<(String, Self)>() + content
    }

    /// What it is, with its article.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a truth value",
            Self::Integer(_) => "an integer",
            Self::Real(_) => "a real number",
            Self::Text(_) => "text",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }

    /// It as a turn of a conversation; `place` is where it is.
    pub(crate) fn message(&self, place: &str) -> Result<Message> {
        let wrong = |what: &str, expected: &str, found: &Self| {
            Error::input(format!("`{place}{what}` must be {expected}, not {}", found.type_name()))
        };
        let Self::Map(fields) = self else { return Err(wrong("", "a map with role and content", self)) };
        let mut message = Message::default();
        let (mut role, mut content) = (None, None);
        for (name, value) in fields {
            match name.as_str() {
                "role" => role = Some(value),
                "content" => content = Some(value),
                _ => drop(message.extra.insert(name.clone(), value.to_json())),
            }
        }
        message.role = match role {
            Some(Self::Text(role)) => role.clone(),
            Some(other) => return Err(wrong(".role", "text", other)),
            None => return Err(Error::input(format!("`{place}` has no `role`"))),
        };
        match content {
            Some(Self::Text(content)) => message.content.clone_from(content),
            // A turn may only call tools.
            None | Some(Self::Null) if message.extra.get("tool_calls").is_some_and(|calls| !calls.is_null()) => {
                message.extra.insert("content".to_owned(), Value::Null);
            }
            None => return Err(Error::input(format!("`{place}` has no `content`"))),
            Some(other) => return Err(wrong(".content", "text", other)),
        }
        Ok(message)
    }
}

macro_rules! from {
    ($($type:ty => $make:expr;)*) => { $(impl From<$type> for Datum {
        fn from(value: $type) -> Self {
            $make(value)
        }
    })* };
}
from! {
    bool => Datum::Bool;
    i32 => |number| Datum::Integer(i128::from(number));
    i64 => |number| Datum::Integer(i128::from(number));
    u64 => |number| Datum::Integer(i128::from(number));
    f32 => |number| Datum::Real(f64::from(number));
    f64 => Datum::Real;
    String => Datum::Text;
    &str => |text: &str| Datum::Text(text.to_owned());
    Vec<u8> => Datum::Bytes;
    Vec<Datum> => Datum::List;
    Vec<(String, Datum)> => Datum::Map;
    Map<String, Value> => |map: Map<String, Value>| Datum::Map(map.into_iter().map(|(name, value)| (name, value.into())).collect());
    Vec<Message> => |turns: Vec<Message>| Datum::List(turns.into_iter().map(Datum::from).collect());
}

impl From<Value> for Datum {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(value),
            Value::Number(number) => match number.as_i128() {
                Some(integer) => Self::Integer(integer),
                None => Self::Real(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => Self::Text(text),
            Value::Array(items) => Self::List(items.into_iter().map(Self::from).collect()),
            Value::Object(entries) => entries.into(),
        }
    }
}

impl From<Message> for Datum {
    fn from(Message { role, content, mut extra }: Message) -> Self {
        let content = if extra.shift_remove("content").is_some() { Self::Null } else { Self::Text(content) };
        let mut fields = vec![("role".to_owned(), role.into()), ("content".to_owned(), content)];
        fields.extend(extra.into_iter().map(|(name, value)| (name, value.into())));
        Self::Map(fields)
    }
}

impl Serialize for Datum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Integer(number) => match (i64::try_from(*number), u64::try_from(*number)) {
                (Ok(number), _) => serializer.serialize_i64(number),
                (_, Ok(number)) => serializer.serialize_u64(number),
                _ => Err(S::Error::custom(format!("the integer {number} does not fit into 64 bits"))),
            },
            Self::Real(number) => serializer.serialize_f64(*number),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Bytes(bytes) => serializer.serialize_bytes(bytes),
            Self::List(items) => items.serialize(serializer),
            Self::Map(fields) => entries::serialize(fields, serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Datum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DatumVisitor)
    }
}

/// Named values as a map of the record.
pub(crate) mod entries {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(entries: &[(String, Datum)], serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(entries.len()))?;
        entries.iter().try_for_each(|(name, value)| map.serialize_entry(name, value))?;
        map.end()
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, Datum)>, D::Error> {
        match Datum::deserialize(deserializer)? {
            Datum::Map(entries) => Ok(entries),
            other => Err(de::Error::custom(format_args!("a map of values is expected, not {}", other.type_name()))),
        }
    }
}

struct DatumVisitor;

macro_rules! visit {
    ($($visit:ident($type:ty) => $make:expr;)*) => { $(
        fn $visit<E>(self, value: $type) -> Result<Datum, E> {
            Ok($make(value))
        }
    )* };
}

impl<'de> Visitor<'de> for DatumVisitor {
    type Value = Datum;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of an example")
    }

    visit! {
        visit_bool(bool) => Datum::Bool;
        visit_i64(i64) => Datum::from;
        visit_u64(u64) => Datum::from;
        visit_i128(i128) => Datum::Integer;
        visit_f64(f64) => Datum::Real;
        visit_str(&str) => Datum::from;
        visit_string(String) => Datum::Text;
        visit_bytes(&[u8]) => |bytes: &[u8]| Datum::Bytes(bytes.to_vec());
        visit_byte_buf(Vec<u8>) => Datum::Bytes;
    }

    fn visit_unit<E>(self) -> Result<Datum, E> {
        Ok(Datum::Null)
    }

    fn visit_none<E>(self) -> Result<Datum, E> {
        Ok(Datum::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Datum, D::Error> {
        Datum::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Datum, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = elements.next_element()? {
            items.push(item);
        }
        Ok(Datum::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Datum, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = fields.next_entry()? {
            entries.push(entry);
        }
        Ok(Datum::Map(entries))
    }
}
