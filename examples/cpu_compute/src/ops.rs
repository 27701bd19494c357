//! Every primitive of the table of operations (`mdt_plugin_api::op`), on plain tensors.

use mdt_plugin_api::op::{Attributes, promoted};
use mdt_plugin_api::{Attribute, Dtype, Error, OpKind, Result, TensorType};

use crate::array::Array;
use crate::kernels::{
    add_at, add_run, each, erf, floor_divide, floor_divide_whole, larger, map, order, reduce, running_sum, smaller,
    uniform, zip,
};
use crate::matmul::matmul;
use crate::walk::{broadcast, choose, copy, gather, pick, places, put, replace, row_major};

/// Whether this plugin has an operation with these attributes on this element type: all primitives but those on float64 and uint64,
/// without numbers in the place of tensors. All else is composed.
pub fn supports<'a>(op: OpKind, mut attributes: impl Iterator<Item = &'a str>, dtype: Dtype) -> bool {
    op.definition().is_some_and(|definition| {
        let is_known = |name| definition.attributes.iter().any(|known| known.name == name);
        definition.is_primitive
            && definition.types.contains(dtype)
            && !matches!(dtype, Dtype::F64 | Dtype::U64)
            && attributes.all(|name| is_known(name) && !matches!(name, "left" | "right"))
    })
}

/// Attributes that say where: read, and counted from the beginning.
#[derive(Default)]
pub struct Places {
    /// `axis`, or `axes`, or all.
    pub axes: Vec<usize>,
    pub start: Vec<i64>,
    /// `reverse`, `exclusive`.
    pub flags: [bool; 2],
}

impl Places {
    pub fn read(attributes: &[Attribute<'_>], shape: &[usize]) -> Result<Self> {
        let given = Attributes::new(attributes);
        let flag = |name| Ok::<_, Error>(given.optional(name)?.unwrap_or(false));
        let counted = |&axis: &i64| if axis < 0 { (axis + shape.len() as i64) as usize } else { axis as usize };
        let axes = match given.optional::<i64>("axis")? {
            Some(axis) => vec![counted(&axis)],
            None => match given.optional::<&[i64]>("axes")? {
                Some(axes) => axes.iter().map(counted).collect(),
                None => (0..shape.len()).collect(),
            },
        };
        let start = given.optional::<&[i64]>("start")?.unwrap_or_default().to_vec();
        Ok(Self { axes, start, flags: [flag("reverse")?, flag("exclusive")?] })
    }
}

/// Applies an operation.
pub fn compute(op: OpKind, x: &[&Array], attributes: &[Attribute<'_>], threads: usize) -> Result<Array> {
    let unsupported = || Error::plugin(format!("cpu has no {} with these attributes and element types", op.name()));
    let definition = op.definition().filter(|definition| definition.is_primitive).ok_or_else(unsupported)?;
    let types: Vec<_> = x.iter().map(|tensor| Some(&***tensor)).collect();
    // The types and shapes of inputs and attributes are right from here on.
    let kind = &definition.infer(&types, attributes)?[0];
    for dtype in [x.first().map_or(kind.dtype, |x| x.dtype), kind.dtype] {
        if !supports(op, attributes.iter().map(|attribute| attribute.name), dtype) && dtype != Dtype::BOOL {
            return Err(unsupported());
        }
    }
    let given = Attributes::new(attributes);
    let Places { axes, start, flags } = Places::read(attributes, x.first().map_or(&[], |x| &x.shape))?;
    let is_real = kind.dtype.is_float();
    let strides = row_major(x.first().map_or(&[], |x| &x.shape));
    let first = start.iter().zip(&strides).map(|(&start, stride)| start as usize * stride).sum();
    Ok(match op {
        OpKind::WHERE => {
            let repeated = |x: &Array, dtype| {
                let kind = TensorType { dtype, ..kind.clone() };
                gather(&x.cast(dtype), &kind, 0, &broadcast(&x.shape, &kind.shape))
            };
            choose(&repeated(x[0], Dtype::BOOL), &repeated(x[1], kind.dtype), &repeated(x[2], kind.dtype))
        }
        OpKind::SUM if is_real => reduce(x[0], &axes, kind, 0.0, add_run),
        OpKind::SUM => reduce(x[0], &axes, kind, 0, each(i64::wrapping_add)),
        OpKind::MAX if is_real => reduce(x[0], &axes, kind, f32::NEG_INFINITY, each(larger)),
        OpKind::MAX => reduce(x[0], &axes, kind, i64::MIN, each(i64::max)),
        OpKind::MIN if is_real => reduce(x[0], &axes, kind, f32::INFINITY, each(smaller)),
        OpKind::MIN => reduce(x[0], &axes, kind, i64::MAX, each(i64::min)),
        OpKind::CUMULATIVE_SUM if is_real => {
            running_sum(x[0], axes[0], kind, flags, |sum: f64, x: f32| sum + f64::from(x))
        }
        OpKind::CUMULATIVE_SUM => running_sum(x[0], axes[0], kind, flags, i64::wrapping_add),
        OpKind::ARGSORT => {
            let is_descending = given.optional("descending")?.unwrap_or(false);
            let order = if x[0].dtype.is_float() { order::<f32> } else { order::<i64> };
            order(x[0], axes[0], kind, is_descending)
        }
        OpKind::MATMUL => matmul(x[0], x[1], kind, threads),
        OpKind::RESHAPE | OpKind::STOP_GRADIENT => x[0].reshaped(kind),
        OpKind::TRANSPOSE => gather(x[0], kind, 0, &axes.iter().map(|&axis| strides[axis]).collect::<Vec<_>>()),
        OpKind::BROADCAST_TO => gather(x[0], kind, 0, &broadcast(&x[0].shape, &kind.shape)),
        OpKind::SLICE => gather(x[0], kind, first, &strides),
        OpKind::SLICE_UPDATE => {
            let mut result = copy(x[0]);
            put(&mut result, x[1], first, &strides);
            result
        }
        OpKind::CONCATENATE => {
            let (mut result, mut start, strides) = (Array::zeros(kind), 0, row_major(&kind.shape));
            for x in x {
                put(&mut result, &x.cast(kind.dtype), start * strides[axes[0]], &strides);
                start += x.shape[axes[0]];
            }
            result
        }
        OpKind::TAKE => pick(x[0], &places(x[0], x[1], axes[0], true)?, kind),
        OpKind::TAKE_ALONG_AXIS => pick(x[0], &places(x[0], x[1], axes[0], false)?, kind),
        OpKind::SCATTER => replace(x[0], &places(x[0], x[1], axes[0], false)?, x[2]),
        OpKind::SCATTER_ADD => {
            let places = places(x[0], x[1], axes[0], false)?;
            match is_real {
                true => add_at(x[0], &places, x[2], |sum: f64, x| sum + x),
                false => add_at(x[0], &places, x[2], i64::wrapping_add),
            }
        }
        OpKind::CAST => x[0].cast(kind.dtype),
        OpKind::FULL => {
            let value: f64 = given.required("value")?;
            match is_real {
                true => Array::build(kind, |out| out.fill(value as f32)),
                false => Array::build(kind, |out| out.fill(value as i64)),
            }
        }
        OpKind::ARANGE => Array::build(kind, |out| (0..).zip(out).for_each(|(i, out): (i64, _)| *out = i)),
        OpKind::RANDOM_UNIFORM => uniform(given.required("key")?, kind),
        _ if x.len() == 2 => binary(op, x[0], x[1], kind).ok_or_else(unsupported)?,
        _ => unary(op, x[0], kind).ok_or_else(unsupported)?,
    })
}

fn binary(op: OpKind, a: &Array, b: &Array, kind: &TensorType) -> Option<Array> {
    let dtype = if kind.dtype == Dtype::BOOL { promoted(a.dtype, b.dtype)? } else { kind.dtype };
    let (a, b) = (&a.cast(dtype), &b.cast(dtype));
    macro_rules! either {
        ($real:expr, $whole:expr) => {
            if dtype.is_float() { zip::<f32, _>(a, b, kind, $real) } else { zip::<i64, _>(a, b, kind, $whole) }
        };
    }
    let remainder = |a: i64, b: i64| if b == 0 { 0 } else { a.wrapping_sub(b.wrapping_mul(floor_divide_whole(a, b))) };
    Some(match op {
        OpKind::ADD => either!(|a, b| a + b, i64::wrapping_add),
        OpKind::SUBTRACT => either!(|a, b| a - b, i64::wrapping_sub),
        OpKind::MULTIPLY => either!(|a, b| a * b, i64::wrapping_mul),
        OpKind::DIVIDE => zip(a, b, kind, |a: f32, b| a / b),
        OpKind::MAXIMUM => either!(larger, i64::max),
        OpKind::MINIMUM => either!(smaller, i64::min),
        OpKind::POWER => zip(a, b, kind, f32::powf),
        OpKind::FLOOR_DIVIDE => either!(|a, b| floor_divide(a, b) as f32, floor_divide_whole),
        OpKind::REMAINDER => {
            either!(|a, b| (f64::from(a) - f64::from(b) * floor_divide(a, b)) as f32, remainder)
        }
        OpKind::EQUAL => either!(|a, b| u8::from(a == b), |a, b| u8::from(a == b)),
        OpKind::GREATER => either!(|a, b| u8::from(a > b), |a, b| u8::from(a > b)),
        OpKind::LESS => either!(|a, b| u8::from(a < b), |a, b| u8::from(a < b)),
        OpKind::LOGICAL_AND => either!(|a, b| u8::from(a != 0.0 && b != 0.0), |a, b| u8::from(a != 0 && b != 0)),
        _ => return None,
    })
}

fn unary(op: OpKind, x: &Array, kind: &TensorType) -> Option<Array> {
    // Integers as real numbers, where the result is one.
    let x = &if kind.dtype == Dtype::BOOL { x.clone() } else { x.cast(kind.dtype) };
    Some(match op {
        OpKind::NEGATIVE if kind.dtype.is_float() => map(x, kind, |x: f32| -x),
        OpKind::NEGATIVE => map(x, kind, i64::wrapping_neg),
        OpKind::ABS if kind.dtype.is_float() => map(x, kind, f32::abs),
        OpKind::ABS => map(x, kind, i64::wrapping_abs),
        OpKind::FLOOR if kind.dtype.is_float() => map(x, kind, f32::floor),
        OpKind::ROUND if kind.dtype.is_float() => map(x, kind, f32::round_ties_even),
        OpKind::FLOOR | OpKind::ROUND => x.clone(),
        OpKind::LOGICAL_NOT => map(&x.cast(Dtype::BOOL), kind, |x: u8| 1 - x),
        OpKind::EXP => map(x, kind, f32::exp),
        OpKind::LOG => map(x, kind, f32::ln),
        OpKind::SQRT => map(x, kind, f32::sqrt),
        OpKind::TANH => map(x, kind, f32::tanh),
        OpKind::SIN => map(x, kind, f32::sin),
        OpKind::COS => map(x, kind, f32::cos),
        OpKind::ERF => map(x, kind, erf),
        OpKind::LOG1P => map(x, kind, f32::ln_1p),
        _ => return None,
    })
}
