//! Which types operations give of which inputs: every check of counts, attributes, types and shapes, once.

mod constant;
mod elementwise;
mod layers;
mod matrix;
mod movement;
mod reduce;
#[cfg(test)]
mod tests;

use std::fmt;

pub(super) use constant::{arange, full, random};
pub(super) use elementwise::{
    arithmetic, cast, comparison, dropout, gelu, logical, logical_not, real_arithmetic, real_same, same, select,
};
pub(super) use layers::{attention, cross_entropy, embedding, norm, rope, swiglu, token_losses};
pub(super) use matrix::{dequantize, gather_linear, linear, matmul, quantize, quantized_linear};
pub(super) use movement::{
    broadcast_to, concatenate, reshape, scatter, slice, slice_update, take, take_along_axis, transpose,
};
pub(super) use reduce::{
    along_axis, argmax, argsort, cumulative_sum, extremum, random_categorical, real_along_axis, real_reduction, sum,
    top_k,
};

use super::attributes::FromValue;
use super::definition::{AttributeSpec, Definition, ValueKind};
use super::promotion::promoted;
use super::{Attribute, Attributes};
use crate::{Dtype, Error, Result, TensorType};

/// The types of the results.
pub(super) type Outcome = Result<Vec<TensorType>>;

/// How a row of the table infers them.
pub(super) type Infer = fn(&Call<'_>) -> Outcome;

/// Inputs and attributes whose number, names and kinds have been checked.
pub(super) struct Call<'a> {
    definition: &'a Definition,
    inputs: &'a [Option<&'a TensorType>],
    attributes: Attributes<'a>,
}

/// [`Definition::infer`].
pub(super) fn infer(definition: &Definition, inputs: &[Option<&TensorType>], attributes: &[Attribute<'_>]) -> Outcome {
    let call = Call { definition, inputs, attributes: Attributes::new(attributes) };
    check(definition, inputs, attributes).and_then(|()| (definition.infer)(&call)).map_err(|error| {
        let on = if inputs.is_empty() { String::new() } else { format!(" on {}", Inputs(inputs)) };
        Error::plugin(format!("operation {}{on}: {}", definition.name, error.message()))
    })
}

/// Refuses another number of inputs, an element type that the operation is not defined for, and attributes that it does not
/// know, that are of another kind, given twice or missing.
fn check(definition: &Definition, inputs: &[Option<&TensorType>], attributes: &[Attribute<'_>]) -> Result<()> {
    let (least, most) = (definition.least_inputs, definition.most_inputs);
    if !(least..=most).contains(&inputs.len()) {
        return refuse(format!("takes {} inputs, not {}", Count(least, most), inputs.len()));
    }
    if let Some(place) = inputs.iter().take(least).position(Option::is_none) {
        return refuse(format!("input {place} cannot be left out"));
    }
    for (place, attribute) in attributes.iter().enumerate() {
        let Some(spec) = definition.attributes.iter().find(|spec| spec.name == attribute.name) else {
            return refuse(unknown(definition.attributes, attribute.name));
        };
        if spec.kind != attribute.value.kind() {
            let kind = kind_name(spec.kind);
            return refuse(format!("attribute {:?} must be {kind}, not {:?}", spec.name, attribute.value));
        }
        if attributes[..place].iter().any(|earlier| earlier.name == attribute.name) {
            return refuse(format!("attribute {:?} is given twice", attribute.name));
        }
    }
    let is_given = |spec: &AttributeSpec| attributes.iter().any(|attribute| attribute.name == spec.name);
    match definition.attributes.iter().find(|spec| spec.is_required && !is_given(spec)) {
        Some(spec) => refuse(format!("needs the attribute {:?}, {}", spec.name, kind_name(spec.kind))),
        None => Ok(()),
    }
}

fn unknown(known: &[AttributeSpec], name: &str) -> String {
    let known: Vec<&str> = known.iter().map(|spec| spec.name).collect();
    let known = if known.is_empty() { "it takes none".to_owned() } else { format!("it knows {}", known.join(", ")) };
    format!("has no attribute {name:?}; {known}")
}

fn kind_name(kind: ValueKind) -> &'static str {
    match kind {
        ValueKind::Bool => bool::NAME,
        ValueKind::Int => i64::NAME,
        ValueKind::Float => f64::NAME,
        ValueKind::Ints => <&[i64]>::NAME,
        ValueKind::Dtype => Dtype::NAME,
        ValueKind::Text => <&str>::NAME,
        ValueKind::Floats => <&[f64]>::NAME,
    }
}

/// What is wrong, as an error; [`infer`] adds the operation and its inputs.
fn refuse<T>(what: impl Into<String>) -> Result<T> {
    Err(Error::plugin(what))
}

/// Refuses what does not fit an operation's usual shapes.
fn expect(fits: bool, expected: &str) -> Result<()> {
    if fits { Ok(()) } else { refuse(format!("expected {expected}")) }
}

impl<'a> Call<'a> {
    /// An input that the operation always has.
    fn input(&self, place: usize) -> Result<&'a TensorType> {
        self.given(place).ok_or_else(|| Error::plugin(format!("input {place} cannot be left out")))
    }

    /// An input that may be left out.
    fn given(&self, place: usize) -> Option<&'a TensorType> {
        self.inputs.get(place).copied().flatten()
    }

    /// The first input, of one of the operation's types.
    fn first(&self) -> Result<&'a TensorType> {
        let first = self.input(0)?;
        self.typed(first.dtype)?;
        Ok(first)
    }

    /// An element type that the operation is defined for.
    fn typed(&self, dtype: Dtype) -> Result<Dtype> {
        if self.definition.types.contains(dtype) {
            return Ok(dtype);
        }
        refuse(format!("is not defined for {dtype}"))
    }

    /// A shape in attribute `shape`.
    fn shape(&self) -> Result<Vec<usize>> {
        self.attributes.required::<&[i64]>("shape")?.iter().map(|&length| natural("shape", length)).collect()
    }

    /// A rate of dropout.
    fn rate(&self, name: &str) -> Result<()> {
        match self.attributes.optional::<f64>(name)? {
            Some(rate) if !(0.0..1.0).contains(&rate) => {
                refuse(format!("attribute {name:?} must be at least 0 and less than 1, not {rate}"))
            }
            _ => Ok(()),
        }
    }

    /// The axis in attribute `axis`, counted from 0.
    fn axis(&self, x: &TensorType) -> Result<usize> {
        place(self.attributes.required("axis")?, x.shape.len())
    }
}

/// A length in an attribute.
fn natural(name: &str, length: i64) -> Result<usize> {
    usize::try_from(length).or_else(|_| refuse(format!("attribute {name:?}: an axis cannot have length {length}")))
}

/// An axis, which may be counted from the end, counted from 0.
fn place(axis: i64, rank: usize) -> Result<usize> {
    let counted = if axis < 0 { axis + rank as i64 } else { axis };
    match usize::try_from(counted) {
        Ok(counted) if counted < rank => Ok(counted),
        _ => refuse(format!("axis {axis} is not one of {rank} axes")),
    }
}

/// One result. Its bytes can be counted, so that nothing after this overflows.
fn one(shape: Vec<usize>, dtype: Dtype) -> Outcome {
    let limit = isize::MAX as usize / dtype.size().max(1);
    let elements = shape.iter().try_fold(1usize, |product, &length| product.checked_mul(length));
    if elements.is_none_or(|elements| elements > limit) && !shape.contains(&0) {
        return refuse(format!("a tensor of shape {shape:?} has more elements than can be counted"));
    }
    Ok(vec![TensorType { shape, dtype }])
}

/// The shape of what is computed element by element of two shapes.
fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    let mut shape = long.to_vec();
    for (length, &other) in shape[long.len() - short.len()..].iter_mut().zip(short) {
        match (*length, other) {
            (1, other) => *length = other,
            (length, other) if other == 1 || other == length => {}
            _ => return refuse(format!("the shapes {a:?} and {b:?} do not broadcast")),
        }
    }
    Ok(shape)
}

/// The type of what is computed of elements of two types.
fn common(a: Dtype, b: Dtype) -> Result<Dtype> {
    promoted(a, b).map_or_else(|| refuse(format!("{a} and {b} have no common type")), Ok)
}

/// The same, of floating-point inputs.
fn common_float<'a>(inputs: impl IntoIterator<Item = &'a TensorType>) -> Result<Dtype> {
    let mut common_dtype = None;
    for input in inputs {
        if !input.dtype.is_float() {
            return refuse(format!("is not defined for {}", input.dtype));
        }
        common_dtype = Some(common_dtype.map_or(Ok(input.dtype), |dtype| common(dtype, input.dtype))?);
    }
    common_dtype.map_or_else(|| refuse("has no inputs"), Ok)
}

/// Indices of any integer type.
fn expect_integers(indices: &TensorType) -> Result<()> {
    let dtype = indices.dtype;
    let is_integer = dtype.size() > 0 && !dtype.is_float() && dtype != Dtype::BOOL;
    if is_integer { Ok(()) } else { refuse(format!("indices are integers, not {dtype}")) }
}

/// How many inputs, in words.
struct Count(usize, usize);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, self.1) {
            (least, most) if least == most => write!(f, "{least}"),
            (least, usize::MAX) => write!(f, "at least {least}"),
            (least, most) => write!(f, "{least} to {most}"),
        }
    }
}

/// Types and shapes of inputs, for messages.
pub(super) struct Inputs<'a>(pub(super) &'a [Option<&'a TensorType>]);

impl fmt::Display for Inputs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, input) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            match input {
                Some(TensorType { shape, dtype }) => write!(f, "{comma}{dtype} {shape:?}")?,
                None => write!(f, "{comma}none")?,
            }
        }
        Ok(())
    }
}
