//! One application of an operation: its inputs, and attributes read with their types checked.

use mdt_plugin_api::{Attribute, Dtype, Value};
use mlx_rs::Array;

use crate::fault::Fault;

/// Inputs and attributes whose numbers and names have been checked.
pub struct Call<'a> {
    inputs: &'a [&'a Array],
    attributes: &'a [Attribute<'a>],
}

/// A type that an attribute can have.
pub trait AttributeType<'a>: Sized {
    /// What it is called in messages.
    const NAME: &'static str;
    /// The value, where it has this type.
    fn read(value: &Value<'a>) -> Option<Self>;
}

macro_rules! attribute_types {
    ($($type:ty, $variant:ident, $name:literal;)*) => { $(
        impl<'a> AttributeType<'a> for $type {
            const NAME: &'static str = $name;
            fn read(value: &Value<'a>) -> Option<Self> {
                match value {
                    Value::$variant(value) => Some(*value),
                    _ => None,
                }
            }
        }
    )* };
}
attribute_types! {
    bool, Bool, "a truth value";
    i64, Int, "an integer";
    f64, Float, "a real number";
    &'a [i64], Ints, "a list of integers";
    Dtype, Dtype, "an element type";
    &'a str, Text, "a text";
    &'a [f64], Floats, "a list of real numbers";
}

impl<'a> Call<'a> {
    /// A call with these, checked.
    pub fn new(inputs: &'a [&'a Array], attributes: &'a [Attribute<'a>]) -> Self {
        Self { inputs, attributes }
    }

    /// All inputs.
    pub fn inputs(&self) -> &'a [&'a Array] {
        self.inputs
    }

    /// An input that the operation always has.
    pub fn input(&self, place: usize) -> &'a Array {
        self.inputs[place]
    }

    /// An attribute that may be absent.
    ///
    /// # Errors
    /// It has another type.
    pub fn optional<T: AttributeType<'a>>(&self, name: &str) -> Result<Option<T>, Fault> {
        let Some(attribute) = self.attributes.iter().find(|attribute| attribute.name == name) else { return Ok(None) };
        match T::read(&attribute.value) {
            Some(value) => Ok(Some(value)),
            None => Err(Fault::new(format!("attribute {name:?} must be {}, not {:?}", T::NAME, attribute.value))),
        }
    }

    /// An attribute that must be there.
    ///
    /// # Errors
    /// It is absent, or has another type.
    pub fn required<T: AttributeType<'a>>(&self, name: &str) -> Result<T, Fault> {
        self.optional(name)?.ok_or_else(|| Fault::new(format!("needs the attribute {name:?}, {}", T::NAME)))
    }

    /// The axis in attribute `axis`, as MLX takes it.
    pub fn axis(&self) -> Result<i32, Fault> {
        narrow("axis", self.required("axis")?)
    }

    /// A required list of integers, as MLX takes them.
    pub fn ints(&self, name: &str) -> Result<Vec<i32>, Fault> {
        self.required::<&[i64]>(name)?.iter().map(|&value| narrow(name, value)).collect()
    }
}

/// MLX counts in 32 bits.
pub fn narrow(name: &str, value: i64) -> Result<i32, Fault> {
    i32::try_from(value)
        .map_err(|_| Fault::new(format!("attribute {name:?}: {value} is out of MLX's range of 32 bits")))
}
