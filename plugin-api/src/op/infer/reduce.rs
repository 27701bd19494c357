//! Operations along axes.

use super::{Call, Outcome, one, place, refuse};
use crate::op::promotion::real;
use crate::{Dtype, Result, TensorType};

/// The type in which elements of this one are added up.
fn summed(dtype: Dtype) -> Dtype {
    match dtype {
        Dtype::BOOL | Dtype::I8 | Dtype::I16 => Dtype::I32,
        Dtype::U8 | Dtype::U16 => Dtype::U32,
        other => other,
    }
}

/// The shape without `axes`, or with length 1 there, and whether something is left to reduce for each element of it.
fn reduced(call: &Call<'_>, x: &TensorType) -> Result<(Vec<usize>, bool)> {
    let rank = x.shape.len();
    let keep_dims = call.attributes.optional("keep_dims")?.unwrap_or(false);
    let Some(axes) = call.attributes.optional::<&[i64]>("axes")? else {
        return Ok((vec![1; if keep_dims { rank } else { 0 }], !x.shape.contains(&0)));
    };
    let mut shape = x.shape.clone();
    let mut has_elements = true;
    // A length that no axis has marks those that go.
    const GONE: usize = usize::MAX;
    for &axis in axes {
        let length = &mut shape[place(axis, rank)?];
        if *length == GONE {
            return refuse(format!("axis {axis} is given twice"));
        }
        has_elements &= *length > 0;
        *length = GONE;
    }
    if keep_dims {
        shape.iter_mut().filter(|length| **length == GONE).for_each(|length| *length = 1);
    } else {
        shape.retain(|&length| length != GONE);
    }
    Ok((shape, has_elements))
}

pub fn sum(call: &Call<'_>) -> Outcome {
    let x = call.first()?;
    one(reduced(call, x)?.0, summed(x.dtype))
}

pub fn real_reduction(call: &Call<'_>) -> Outcome {
    let x = call.first()?;
    one(reduced(call, x)?.0, real(x.dtype))
}

pub fn extremum(call: &Call<'_>) -> Outcome {
    let x = call.first()?;
    let (shape, has_elements) = reduced(call, x)?;
    if !has_elements {
        return refuse("nothing has no largest or smallest element");
    }
    one(shape, x.dtype)
}

pub fn argmax(call: &Call<'_>) -> Outcome {
    let x = call.first()?;
    largest_along(x, call.axis(x)?)
}

pub fn random_categorical(call: &Call<'_>) -> Outcome {
    let logits = call.first()?;
    largest_along(logits, place(-1, logits.shape.len())?)
}

/// Indices of largest elements along an axis, which is gone then.
fn largest_along(x: &TensorType, axis: usize) -> Outcome {
    let mut shape = x.shape.clone();
    if shape.remove(axis) == 0 {
        return refuse("nothing has no largest element");
    }
    one(shape, Dtype::I32)
}

pub fn top_k(call: &Call<'_>) -> Outcome {
    let x = call.first()?;
    let (axis, count) = (call.axis(x)?, call.attributes.required::<i64>("count")?);
    let mut shape = x.shape.clone();
    match usize::try_from(count) {
        Ok(count) if count <= shape[axis] => shape[axis] = count,
        _ => return refuse(format!("there are no {count} elements along axis {axis}")),
    }
    one(shape, Dtype::I32)
}

pub fn argsort(call: &Call<'_>) -> Outcome {
    let x = call.first()?;
    call.axis(x)?;
    one(x.shape.clone(), Dtype::I32)
}

pub fn along_axis(call: &Call<'_>) -> Outcome {
    let x = call.first()?;
    call.axis(x)?;
    one(x.shape.clone(), x.dtype)
}

pub fn real_along_axis(call: &Call<'_>) -> Outcome {
    let x = call.first()?;
    call.axis(x)?;
    one(x.shape.clone(), real(x.dtype))
}

pub fn cumulative_sum(call: &Call<'_>) -> Outcome {
    let x = call.first()?;
    call.axis(x)?;
    one(x.shape.clone(), summed(x.dtype))
}
