//! Attributes, read with their kinds checked.

use super::{Attribute, Value};
use crate::{Dtype, Error, Result};

/// The attributes of one call.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a>(&'a [Attribute<'a>]);

/// A type that the value of an attribute can have.
pub trait FromValue<'a>: Sized {
    /// What it is called in messages.
    const NAME: &'static str;
    /// The value, where it has this type.
    fn from_value(value: &Value<'a>) -> Option<Self>;
}

macro_rules! from_value {
    ($($type:ty, $variant:ident, $name:literal;)*) => { $(
        impl<'a> FromValue<'a> for $type {
            const NAME: &'static str = $name;
            fn from_value(value: &Value<'a>) -> Option<Self> {
                match value {
                    Value::$variant(value) => Some(*value),
                    _ => None,
                }
            }
        }
    )* };
}
from_value! {
    bool, Bool, "a truth value";
    i64, Int, "an integer";
    f64, Float, "a real number";
    &'a [i64], Ints, "a list of integers";
    Dtype, Dtype, "an element type";
    &'a str, Text, "a text";
    &'a [f64], Floats, "a list of real numbers";
}

impl<'a> Attributes<'a> {
    /// These.
    pub fn new(attributes: &'a [Attribute<'a>]) -> Self {
        Self(attributes)
    }

    /// An attribute that may be absent.
    ///
    /// # Errors
    /// It has another type.
    pub fn optional<T: FromValue<'a>>(&self, name: &str) -> Result<Option<T>> {
        let Some(attribute) = self.0.iter().find(|attribute| attribute.name == name) else { return Ok(None) };
        match T::from_value(&attribute.value) {
            Some(value) => Ok(Some(value)),
            None => Err(Error::plugin(format!("attribute {name:?} must be {}, not {:?}", T::NAME, attribute.value))),
        }
    }

    /// The axes that `axis` or `axes` name, counted from the beginning; all of so many where neither is there.
    ///
    /// # Errors
    /// They are of another type.
    pub fn axes(&self, rank: usize) -> Result<Vec<usize>> {
        let counted = |&axis: &i64| if axis < 0 { (axis + rank as i64) as usize } else { axis as usize };
        match (self.optional("axis")?, self.optional::<&[i64]>("axes")?) {
            (Some(axis), _) => Ok(vec![counted(&axis)]),
            (None, Some(axes)) => Ok(axes.iter().map(counted).collect()),
            (None, None) => Ok((0..rank).collect()),
        }
    }

    /// An attribute that must be there.
    ///
    /// # Errors
    /// It is absent, or has another type.
    pub fn required<T: FromValue<'a>>(&self, name: &str) -> Result<T> {
        self.optional(name)?.ok_or_else(|| Error::plugin(format!("needs the attribute {name:?}, {}", T::NAME)))
    }
}
