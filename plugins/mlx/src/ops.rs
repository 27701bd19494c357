//! Operations: one table from the boundary's operation kinds to MLX.
//!
//! A row says how many inputs an operation takes and which attributes it knows; whatever does not fit is refused here,
//! once, with the operation's name and the inputs' shapes.

mod call;
mod constant;
mod layers;
mod reduce;
mod shape;
#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;

use mdt_plugin_api::{Attribute, Dtype, Error, OpKind, Result};
use mlx_rs::{Array, ops};

use self::call::Call;
use crate::fault::Fault;

/// What every operation gives.
type Outcome = Result<Array, Fault>;

/// A row of the table.
struct Operation {
    kind: OpKind,
    inputs: RangeInclusive<usize>,
    attributes: &'static [&'static str],
    apply: Apply,
}

/// Most operations are a function of one or two arrays; the others read attributes.
enum Apply {
    Unary(fn(&Array) -> mlx_rs::error::Result<Array>),
    Binary(fn(&Array, &Array) -> mlx_rs::error::Result<Array>),
    Call(fn(&Call<'_>) -> Outcome),
}

/// In the order of their numbers, which the search relies on.
const OPERATIONS: &[Operation] = &[
    binary(OpKind::ADD, |a, b| a.add(b)),
    binary(OpKind::SUBTRACT, |a, b| a.subtract(b)),
    binary(OpKind::MULTIPLY, |a, b| a.multiply(b)),
    binary(OpKind::DIVIDE, |a, b| a.divide(b)),
    binary(OpKind::MAXIMUM, |a, b| ops::maximum(a, b)),
    binary(OpKind::MINIMUM, |a, b| ops::minimum(a, b)),
    binary(OpKind::POWER, |a, b| a.power(b)),
    unary(OpKind::NEGATIVE, |x| x.negative()),
    unary(OpKind::EXP, |x| x.exp()),
    unary(OpKind::LOG, |x| x.log()),
    unary(OpKind::SQRT, |x| x.sqrt()),
    unary(OpKind::RSQRT, |x| x.rsqrt()),
    unary(OpKind::SQUARE, |x| x.square()),
    unary(OpKind::SIGMOID, |x| ops::sigmoid(x)),
    unary(OpKind::SILU, |x| x.multiply(ops::sigmoid(x)?)),
    unary(OpKind::TANH, |x| ops::tanh(x)),
    unary(OpKind::ABS, |x| x.abs()),
    call(OpKind::GELU, 1..=1, &["approximate"], layers::gelu),
    call(OpKind::SUM, 1..=1, &["axes", "keep_dims"], reduce::sum),
    call(OpKind::MEAN, 1..=1, &["axes", "keep_dims"], reduce::mean),
    call(OpKind::MAX, 1..=1, &["axes", "keep_dims"], reduce::max),
    call(OpKind::ARGMAX, 1..=1, &["axis"], reduce::argmax),
    call(OpKind::LOG_SUM_EXP, 1..=1, &["axes", "keep_dims"], reduce::log_sum_exp),
    call(OpKind::SOFTMAX, 1..=1, &["axis"], reduce::softmax),
    call(OpKind::TOP_K, 1..=1, &["axis", "count"], reduce::top_k),
    binary(OpKind::MATMUL, |a, b| a.matmul(b)),
    call(OpKind::LINEAR, 2..=3, &[], layers::linear),
    call(OpKind::GATHER_LINEAR, 3..=3, &[], layers::gather_linear),
    call(OpKind::RESHAPE, 1..=1, &["shape"], shape::reshape),
    call(OpKind::TRANSPOSE, 1..=1, &["axes"], shape::transpose),
    call(OpKind::CONCATENATE, 1..=usize::MAX, &["axis"], shape::concatenate),
    call(OpKind::SLICE, 1..=1, &["start", "stop"], shape::slice),
    call(OpKind::TAKE, 2..=2, &["axis"], shape::take),
    call(OpKind::TAKE_ALONG_AXIS, 2..=2, &["axis"], shape::take_along_axis),
    call(OpKind::BROADCAST_TO, 1..=1, &["shape"], shape::broadcast_to),
    call(OpKind::CAST, 1..=1, &["dtype"], shape::cast),
    call(OpKind::WHERE, 3..=3, &[], shape::select),
    call(OpKind::SLICE_UPDATE, 2..=2, &["start"], shape::slice_update),
    binary(OpKind::EQUAL, |a, b| a.eq(b)),
    binary(OpKind::GREATER, |a, b| a.gt(b)),
    binary(OpKind::LESS, |a, b| a.lt(b)),
    call(OpKind::FULL, 0..=0, &["value", "shape", "dtype"], constant::full),
    call(OpKind::ARANGE, 0..=0, &["count", "dtype"], constant::arange),
    call(OpKind::RANDOM_UNIFORM, 0..=0, &["key", "shape", "dtype"], constant::random_uniform),
    call(OpKind::RMS_NORM, 2..=2, &["eps"], layers::rms_norm),
    call(OpKind::ROPE, 2..=3, &["offset", "scale"], layers::rope),
    call(OpKind::ATTENTION, 3..=4, &["scale", "causal", "window", "soft_cap", "dropout", "key"], layers::attention),
    call(OpKind::SWIGLU, 2..=2, &[], layers::swiglu),
    call(OpKind::CROSS_ENTROPY, 2..=2, &[], layers::cross_entropy),
    call(OpKind::EMBEDDING, 2..=2, &[], layers::embedding),
    call(OpKind::LAYER_NORM, 2..=3, &["eps"], layers::layer_norm),
];

const fn unary(kind: OpKind, apply: fn(&Array) -> mlx_rs::error::Result<Array>) -> Operation {
    Operation { kind, inputs: 1..=1, attributes: &[], apply: Apply::Unary(apply) }
}

const fn binary(kind: OpKind, apply: fn(&Array, &Array) -> mlx_rs::error::Result<Array>) -> Operation {
    Operation { kind, inputs: 2..=2, attributes: &[], apply: Apply::Binary(apply) }
}

const fn call(
    kind: OpKind,
    inputs: RangeInclusive<usize>,
    attributes: &'static [&'static str],
    apply: fn(&Call<'_>) -> Outcome,
) -> Operation {
    Operation { kind, inputs, attributes, apply: Apply::Call(apply) }
}

fn find(kind: OpKind) -> Option<&'static Operation> {
    let place = OPERATIONS.binary_search_by_key(&kind.0, |operation| operation.kind.0).ok()?;
    Some(&OPERATIONS[place])
}

/// Whether [`apply`] knows this operation with these attributes, for elements of this type.
pub fn supports(kind: OpKind, attributes: &[&str], dtype: Dtype) -> bool {
    find(kind).is_some_and(|operation| {
        attributes.iter().all(|name| operation.attributes.contains(name))
            && crate::dtype::to_mlx(dtype).is_ok_and(|dtype| dtype.is_float() || !needs_real_numbers(kind))
            && (kind, dtype) != (OpKind::GATHER_LINEAR, Dtype::F64)
    })
}

/// Operations that have no meaning on whole numbers.
fn needs_real_numbers(kind: OpKind) -> bool {
    [OpKind::RMS_NORM, OpKind::LAYER_NORM, OpKind::ROPE, OpKind::ATTENTION, OpKind::SWIGLU, OpKind::GELU]
        .contains(&kind)
        || [OpKind::CROSS_ENTROPY, OpKind::LINEAR, OpKind::GATHER_LINEAR, OpKind::SOFTMAX, OpKind::RANDOM_UNIFORM]
            .contains(&kind)
}

/// Applies an operation, lazily.
///
/// # Errors
/// An unknown operation or attribute, a wrong number of inputs, shapes or types that do not fit; the message names
/// the operation and its inputs.
pub fn apply(kind: OpKind, inputs: &[&Array], attributes: &[Attribute<'_>]) -> Result<Array> {
    let operation =
        find(kind).ok_or_else(|| Error::plugin(format!("operation number {} is unknown to this plugin", kind.0)))?;
    operation.run(inputs, attributes).map_err(|fault| {
        let inputs: Vec<_> = inputs.iter().map(|input| describe(input)).collect();
        let on = if inputs.is_empty() { String::new() } else { format!(" on {}", inputs.join(", ")) };
        Error::plugin(format!("operation {}{on}: {fault}", kind.name()))
    })
}

fn describe(array: &Array) -> String {
    let dtype =
        crate::dtype::from_mlx(array.dtype()).map_or_else(|_| format!("{:?}", array.dtype()), |d| d.to_string());
    format!("{dtype} {:?}", array.shape())
}

impl Operation {
    fn run(&self, inputs: &[&Array], attributes: &[Attribute<'_>]) -> Outcome {
        if !self.inputs.contains(&inputs.len()) {
            return Err(Fault::new(format!("takes {} inputs, not {}", Count(&self.inputs), inputs.len())));
        }
        for (place, attribute) in attributes.iter().enumerate() {
            if !self.attributes.contains(&attribute.name) {
                let known = match self.attributes {
                    [] => "it takes none".to_owned(),
                    known => format!("it knows {}", known.join(", ")),
                };
                return Err(Fault::new(format!("has no attribute {:?}; {known}", attribute.name)));
            }
            if attributes[..place].iter().any(|earlier| earlier.name == attribute.name) {
                return Err(Fault::new(format!("attribute {:?} is given twice", attribute.name)));
            }
        }
        match self.apply {
            Apply::Unary(apply) => Ok(apply(inputs[0])?),
            Apply::Binary(apply) => Ok(apply(inputs[0], inputs[1])?),
            Apply::Call(apply) => apply(&Call::new(inputs, attributes)),
        }
    }
}

/// How many inputs, in words.
struct Count<'a>(&'a RangeInclusive<usize>);

impl std::fmt::Display for Count<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (*self.0.start(), *self.0.end()) {
            (least, most) if least == most => write!(f, "{least}"),
            (least, usize::MAX) => write!(f, "at least {least}"),
            (least, most) => write!(f, "{least} to {most}"),
        }
    }
}
