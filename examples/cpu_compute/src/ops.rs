//! Every primitive of the table of operations (`mdt_plugin_api::op`), on plain tensors.

use mdt_plugin_api::op::{Attributes, promoted};
use mdt_plugin_api::prelude::*;
use mdt_plugin_api::{Attribute, TensorType};

use crate::array::Array;
use crate::kernels::{
    add, add_at, erf, floor_divide, floor_divide_whole, larger, map, order, reduce, running_sum, smaller, uniform, zip,
};
use crate::matmul::matmul;
use crate::walk::{choose, copy, named, pick, places, put, repeated, row_major};

/// Whether this plugin has an operation with these attributes on this element type: all primitives but those on float64 and uint64,
/// without numbers in the place of tensors, and operands as they are. All else is composed.
pub fn supports<'a>(op: OpKind, mut attributes: impl Iterator<Item = &'a str>, dtype: Dtype) -> bool {
    op.definition().is_some_and(|definition| {
        let is_known = |name| definition.attributes.iter().any(|known| known.name == name);
        definition.is_primitive
            && definition.types.contains(dtype)
            && !matches!(dtype, Dtype::F64 | Dtype::U64)
            && attributes.all(|name| is_known(name) && !matches!(name, "left" | "right" | "operands"))
    })
}

/// Applies an operation.
pub fn compute(op: OpKind, x: &[&Array], attributes: &[Attribute<'_>], threads: usize) -> Result<Array> {
    let unsupported = || Error::plugin(format!("cpu has no {} with these attributes and element types", op.name()));
    let definition = op.definition().filter(|definition| definition.is_primitive).ok_or_else(unsupported)?;
    let types: Vec<_> = x.iter().map(|x| Some(&***x)).collect();
    // From here on inputs and attributes are known to be right.
    let to = &definition.infer(&types, attributes)?[0];
    for dtype in [x.first().map_or(to.dtype, |x| x.dtype), to.dtype] {
        if !supports(op, attributes.iter().map(|attribute| attribute.name), dtype) && dtype != Dtype::BOOL {
            return Err(unsupported());
        }
    }
    let shape = x.first().map_or(&[][..], |x| &x.shape);
    let (given, strides) = (Attributes::new(attributes), row_major(shape));
    let axes = given.axes(shape.len())?;
    let start = given.optional::<&[i64]>("start")?.unwrap_or_default();
    let first = start.iter().zip(&strides).map(|(&start, stride)| start as usize * stride).sum();
    let flag = |name| given.optional(name).map(Option::unwrap_or_default);
    let named = |are_rows| named(shape, axes[0], x[1], are_rows);
    let (is_real, value) = (to.dtype.is_float(), given.optional::<f64>("value")?.unwrap_or_default());
    Ok(match op {
        OpKind::SUM if is_real => reduce(x[0], &axes, to, 0.0, add),
        OpKind::SUM => reduce(x[0], &axes, to, 0, i64::wrapping_add),
        OpKind::MAX if is_real => reduce(x[0], &axes, to, f32::NEG_INFINITY, larger),
        OpKind::MAX => reduce(x[0], &axes, to, i64::MIN, i64::max),
        OpKind::MIN if is_real => reduce(x[0], &axes, to, f32::INFINITY, smaller),
        OpKind::MIN => reduce(x[0], &axes, to, i64::MAX, i64::min),
        OpKind::CUMULATIVE_SUM if is_real => {
            running_sum(x[0], axes[0], [flag("reverse")?, flag("exclusive")?], to, add)
        }
        OpKind::CUMULATIVE_SUM => {
            running_sum(x[0], axes[0], [flag("reverse")?, flag("exclusive")?], to, i64::wrapping_add)
        }
        OpKind::ARGSORT => {
            let order = if x[0].dtype.is_float() { order::<f32> } else { order::<i64> };
            order(x[0], axes[0], to, flag("descending")?)
        }
        OpKind::MATMUL => matmul(x[0], x[1], to, threads),
        OpKind::RESHAPE | OpKind::STOP_GRADIENT => x[0].reshaped(to),
        OpKind::TRANSPOSE => {
            let strides: Vec<usize> = axes.iter().map(|&axis| strides[axis]).collect();
            pick(x[0], &places(&to.shape, 0, &strides), to)
        }
        OpKind::BROADCAST_TO => repeated(x[0], &to.shape),
        OpKind::SLICE => pick(x[0], &places(&to.shape, first, &strides), to),
        OpKind::SLICE_UPDATE => put(copy(x[0]), &places(&x[1].shape, first, &strides), x[1]),
        OpKind::CONCATENATE => {
            let (mut result, mut start, strides) = (Array::zeros(to), 0, row_major(&to.shape));
            for x in x {
                result = put(result, &places(&x.shape, start, &strides), &x.cast(to.dtype));
                start += x.shape[axes[0]] * strides[axes[0]];
            }
            result
        }
        OpKind::TAKE => pick(x[0], &named(true)?, to),
        OpKind::TAKE_ALONG_AXIS => pick(x[0], &named(false)?, to),
        OpKind::SCATTER => put(copy(x[0]), &named(false)?, x[2]),
        OpKind::SCATTER_ADD if is_real => add_at(x[0], &named(false)?, x[2], |sum: f64, x| sum + x),
        OpKind::SCATTER_ADD => add_at(x[0], &named(false)?, x[2], i64::wrapping_add),
        OpKind::WHERE => choose(x[0], x[1], x[2], to),
        OpKind::CAST => x[0].cast(to.dtype),
        OpKind::FULL if is_real => Array::build(to, |out| out.fill(value as f32)),
        OpKind::FULL => Array::build(to, |out| out.fill(value as i64)),
        OpKind::ARANGE => Array::build(to, |out| (0..).zip(out).for_each(|(i, out): (i64, _)| *out = i)),
        OpKind::RANDOM_UNIFORM => uniform(given.required("key")?, to),
        _ if x.len() == 2 => binary(op, x[0], x[1], to).ok_or_else(unsupported)?,
        _ => unary(op, x[0], to).ok_or_else(unsupported)?,
    })
}

fn binary(op: OpKind, a: &Array, b: &Array, to: &TensorType) -> Option<Array> {
    let dtype = if to.dtype == Dtype::BOOL { promoted(a.dtype, b.dtype)? } else { to.dtype };
    let (a, b) = (&a.cast(dtype), &b.cast(dtype));
    macro_rules! either {
        ($real:expr, $whole:expr) => {
            if dtype.is_float() { zip::<f32, _>(a, b, to, $real) } else { zip::<i64, _>(a, b, to, $whole) }
        };
    }
    let remainder = |a, b| (f64::from(a) - f64::from(b) * floor_divide(a, b)) as f32;
    let remainder_whole = |a: i64, b| if b == 0 { 0 } else { a.wrapping_sub(floor_divide_whole(a, b).wrapping_mul(b)) };
    Some(match op {
        OpKind::ADD => either!(|a, b| a + b, i64::wrapping_add),
        OpKind::SUBTRACT => either!(|a, b| a - b, i64::wrapping_sub),
        OpKind::MULTIPLY => either!(|a, b| a * b, i64::wrapping_mul),
        OpKind::DIVIDE => zip(a, b, to, |a: f32, b| a / b),
        OpKind::MAXIMUM => either!(larger, i64::max),
        OpKind::MINIMUM => either!(smaller, i64::min),
        OpKind::POWER => zip(a, b, to, f32::powf),
        OpKind::FLOOR_DIVIDE => either!(|a, b| floor_divide(a, b) as f32, floor_divide_whole),
        OpKind::REMAINDER => either!(remainder, remainder_whole),
        OpKind::EQUAL => either!(|a, b| u8::from(a == b), |a, b| u8::from(a == b)),
        OpKind::GREATER => either!(|a, b| u8::from(a > b), |a, b| u8::from(a > b)),
        OpKind::LESS => either!(|a, b| u8::from(a < b), |a, b| u8::from(a < b)),
        OpKind::LOGICAL_AND => either!(|a, b| u8::from(a != 0.0 && b != 0.0), |a, b| u8::from(a != 0 && b != 0)),
        _ => return None,
    })
}

fn unary(op: OpKind, x: &Array, to: &TensorType) -> Option<Array> {
    // Integers as real numbers, where the result is one.
    let x = &if to.dtype == Dtype::BOOL { x.clone() } else { x.cast(to.dtype) };
    Some(match op {
        OpKind::NEGATIVE if to.dtype.is_float() => map(x, to, |x: f32| -x),
        OpKind::NEGATIVE => map(x, to, i64::wrapping_neg),
        OpKind::ABS if to.dtype.is_float() => map(x, to, f32::abs),
        OpKind::ABS => map(x, to, i64::wrapping_abs),
        OpKind::FLOOR if to.dtype.is_float() => map(x, to, f32::floor),
        OpKind::ROUND if to.dtype.is_float() => map(x, to, f32::round_ties_even),
        OpKind::FLOOR | OpKind::ROUND => x.clone(),
        OpKind::LOGICAL_NOT => map(&x.cast(Dtype::BOOL), to, |x: u8| 1 - x),
        OpKind::EXP => map(x, to, f32::exp),
        OpKind::LOG => map(x, to, f32::ln),
        OpKind::SQRT => map(x, to, f32::sqrt),
        OpKind::TANH => map(x, to, f32::tanh),
        OpKind::SIN => map(x, to, f32::sin),
        OpKind::COS => map(x, to, f32::cos),
        OpKind::ERF => map(x, to, erf),
        OpKind::LOG1P => map(x, to, f32::ln_1p),
        _ => return None,
    })
}
