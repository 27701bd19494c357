//! What the table says of an operation.

use super::infer::Infer;
use super::{Attribute, OpKind, Value};
use crate::{Dtype, Result, TensorType};

/// An operation: what it takes and gives.
#[derive(Debug)]
pub struct Definition {
    /// Its number.
    pub op: OpKind,
    /// Its name.
    pub name: &'static str,
    /// What it computes, in the words of the table, line by line.
    pub documentation: &'static [&'static str],
    /// Whether every compute plugin has it; any other is composed of these where a plugin lacks it.
    pub is_primitive: bool,
    /// How many inputs it takes at least.
    pub least_inputs: usize,
    /// How many it takes at most. Those beyond the least ones are optional: one is left out at the end, or is handle 0 before
    /// others.
    pub most_inputs: usize,
    /// The inputs through which a gradient flows, as bits: bit i for input i; the last bit stands for all further ones.
    pub differentiable: u8,
    /// The element types that it is defined for: those of its first input, of what its inputs are promoted to, or of its result
    /// where it has no inputs.
    pub types: Types,
    /// The attributes that it knows.
    pub attributes: &'static [AttributeSpec],
    /// Number of results.
    pub results: usize,
    pub(super) infer: Infer,
}

/// An attribute that an operation knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttributeSpec {
    /// Its name.
    pub name: &'static str,
    /// The kind of its value.
    pub kind: ValueKind,
    /// Whether it must be given.
    pub is_required: bool,
}

/// The kind of a [`Value`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// [`Value::Bool`].
    Bool,
    /// [`Value::Int`].
    Int,
    /// [`Value::Float`].
    Float,
    /// [`Value::Ints`].
    Ints,
    /// [`Value::Dtype`].
    Dtype,
    /// [`Value::Text`].
    Text,
    /// [`Value::Floats`].
    Floats,
}

/// Element types that an operation is defined for. Every compute plugin has bool, uint8, int32, uint32, int64, float16,
/// bfloat16 and float32; with the other integers and float64 it may refuse an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Types {
    /// All of them.
    Any,
    /// All but bool.
    Numbers,
    /// float16, bfloat16, float32, float64.
    Floats,
    /// Integers and bool.
    Integers,
    /// The packed words of quantised weights: uint32.
    Words,
}

impl Types {
    /// Whether this type is one of them.
    pub fn contains(self, dtype: Dtype) -> bool {
        match self {
            Self::Any => dtype.size() > 0,
            Self::Numbers => dtype.size() > 0 && dtype != Dtype::BOOL,
            Self::Floats => dtype.is_float(),
            Self::Integers => dtype.size() > 0 && !dtype.is_float(),
            Self::Words => dtype == Dtype::U32,
        }
    }
}

impl Definition {
    /// Checks inputs (`None` for one that is left out) and attributes, and gives the types of the results, in about 0.1 µs. Every
    /// compute plugin may begin with it; what depends on values (an index out of range) is checked when the operation runs.
    ///
    /// # Errors
    /// Another number of inputs, an attribute that is unknown, missing or of another kind, shapes or types that do not fit; the
    /// message names operation and inputs.
    pub fn infer(&self, inputs: &[Option<&TensorType>], attributes: &[Attribute<'_>]) -> Result<Vec<TensorType>> {
        super::infer::infer(self, inputs, attributes)
    }
}

impl Value<'_> {
    /// The kind of this value.
    pub fn kind(&self) -> ValueKind {
        match self {
            Value::Bool(_) => ValueKind::Bool,
            Value::Int(_) => ValueKind::Int,
            Value::Float(_) => ValueKind::Float,
            Value::Ints(_) => ValueKind::Ints,
            Value::Dtype(_) => ValueKind::Dtype,
            Value::Text(_) => ValueKind::Text,
            Value::Floats(_) => ValueKind::Floats,
        }
    }
}
