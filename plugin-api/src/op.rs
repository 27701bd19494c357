//! Tensor operations as data: a kind, inputs, attributes. A new one never changes the ABI.
//!
//! [`table`](self) says of every operation what it takes and gives, exactly; `OPERATIONS.md` beside this crate is that table as
//! a page. About fifty operations are primitives, which every compute plugin has. The others are composed of them: the
//! composition is their definition, their gradient, and what a device uses that has no faster way.

mod attributes;
mod compose;
mod definition;
mod gradient;
mod infer;
mod promotion;
#[cfg(test)]
mod published_tests;
mod table;

use std::fmt;

pub use attributes::{Attributes, FromValue};
pub use compose::compose;
pub(crate) use compose::{apply, is_available};
pub use definition::{AttributeSpec, Definition, Types, ValueKind};
pub use gradient::Recorded;
pub use promotion::{promoted, real};

/// Which operation. Open: a number that a compute plugin does not know is an error that names it, and
/// [`crate::Compute::supports`] asks beforehand.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct OpKind(pub u32);

impl OpKind {
    /// Its row of the table; none for a number that this version of the crate does not know.
    pub fn definition(self) -> Option<&'static Definition> {
        let place = table::DEFINITIONS.binary_search_by_key(&self.0, |definition| definition.op.0).ok()?;
        Some(&table::DEFINITIONS[place])
    }

    /// Its name, for messages.
    pub fn name(self) -> &'static str {
        self.definition().map_or("unknown", |definition| definition.name)
    }

    /// Every operation that this version of the crate defines, in the order of their numbers.
    pub fn all() -> &'static [Definition] {
        table::DEFINITIONS
    }
}

impl fmt::Debug for OpKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}

/// A named attribute of an operation. An operation refuses attributes that it does not know.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attribute<'a> {
    /// Its name, as the operation's documentation gives it.
    pub name: &'a str,
    /// Its value.
    pub value: Value<'a>,
}

/// The value of an attribute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// A truth value.
    Bool(bool),
    /// An integer: an axis (negative counts from the end), an offset, a count.
    Int(i64),
    /// A real number; an operation that needs one does not accept [`Value::Int`].
    Float(f64),
    /// A list of integers: a shape, axes.
    Ints(&'a [i64]),
    /// An element type.
    Dtype(crate::Dtype),
    /// A text: one of the names that the operation's documentation lists.
    Text(&'a str),
    /// A list of real numbers.
    Floats(&'a [f64]),
}

/// Builds an attribute: `attribute("axis", Value::Int(-1))`.
pub fn attribute<'a>(name: &'a str, value: Value<'a>) -> Attribute<'a> {
    Attribute { name, value }
}
