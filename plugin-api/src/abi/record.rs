//! Records: what crosses once per job, row or checkpoint, as self-describing values (CBOR) that serde maps from plain structs.
//!
//! A reader passes over fields that it does not know. A writer that must not be misunderstood lists such fields in a field
//! `needs`, and a reader that does not know one of them refuses the record.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use super::object::RawSink;
use crate::{Error, Result};

/// What a function of a table replies.
pub(super) trait Reply: Sized {
    /// Writes it.
    fn write(self, out: &RawSink<'_, u8>) -> Result<()>;
    /// Reads it.
    fn read(bytes: &[u8]) -> Result<Self>;
}

impl Reply for () {
    fn write(self, _out: &RawSink<'_, u8>) -> Result<()> {
        Ok(())
    }

    fn read(_bytes: &[u8]) -> Result<Self> {
        Ok(())
    }
}

/// Makes plain types replies, as records.
macro_rules! replies {
    ($($type:ty),* $(,)?) => { $(
        impl $crate::abi::record::Reply for $type {
            fn write(self, out: &$crate::abi::object::RawSink<'_, u8>) -> $crate::Result<()> {
                out.write(&$crate::abi::record::encode(&self)?);
                Ok(())
            }

            fn read(bytes: &[u8]) -> $crate::Result<Self> {
                $crate::abi::record::decode(bytes)
            }
        }
    )* };
}
pub(super) use replies;
replies! { bool, u64, String, serde_json::Value }

/// A value as a record.
///
/// # Errors
/// A value that serde cannot write: a map whose keys are no strings, say.
pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes)
        .map_err(|error| Error::plugin(format!("a record cannot be written: {error}")))?;
    Ok(bytes)
}

/// A record as a value.
///
/// # Errors
/// The bytes are no record of this type, or it needs fields that are unknown here.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    #[derive(Deserialize)]
    struct Needs {
        #[serde(default)]
        needs: Vec<String>,
    }
    let unreadable =
        |error: String| Error::plugin(format!("a {} came that cannot be read here: {error}", short_name::<T>()));
    let Noted { value, unknown } = ciborium::from_reader(bytes).map_err(|error| unreadable(error.to_string()))?;
    if unknown.iter().any(|field| field == "needs") {
        let Needs { needs } = ciborium::from_reader(bytes).map_err(|error| unreadable(error.to_string()))?;
        if let Some(missing) = needs.iter().find(|field| unknown.contains(field)) {
            return Err(unreadable(format!("it needs `{missing}`, which is unknown here")));
        }
    }
    Ok(value)
}

/// A value, and the fields beside it that were passed over.
struct Noted<T> {
    value: T,
    unknown: Vec<String>,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Noted<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut unknown = Vec::new();
        let value = serde_ignored::deserialize(deserializer, |path| unknown.push(path.to_string()))?;
        Ok(Self { value, unknown })
    }
}

fn short_name<T>() -> &'static str {
    let name = std::any::type_name::<T>();
    name.rsplit("::").next().unwrap_or(name).trim_end_matches('>')
}

/// An error as a record; it always has one.
pub(super) fn encode_error(error: &Error) -> Vec<u8> {
    encode(error).unwrap_or_default()
}

/// The error in a record, or the one that reading it meets.
#[cold]
pub(super) fn decode_error(bytes: &[u8]) -> Error {
    decode(bytes).unwrap_or_else(|error| error)
}
