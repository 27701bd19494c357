//! Operations that compare elements with each other. MLX sorts stably, and NaN behind all numbers.

use mlx_rs::ops::indexing::{self, ArrayIndex, ArrayIndexOp, IntoStrideBy, TryIndexOp};
use mlx_rs::{Array, Dtype, ops, stop_gradient};

use super::{Call, Outcome, call::narrow};
use crate::fault::Fault;

/// MLX passes over NaN.
pub fn argmax(call: &Call<'_>) -> Outcome {
    let (x, axis) = (stop_gradient(call.input(0))?, call.axis()?);
    let place = if x.dtype().is_float() {
        let largest = x.max_axes(&[axis], true)?;
        indexing::argmax_axis(x.eq(largest)?.logical_or(ops::is_nan(&x)?)?, axis, false)?
    } else {
        indexing::argmax_axis(&x, axis, false)?
    };
    Ok(place.as_dtype(Dtype::Int32)?)
}

pub fn argsort(call: &Call<'_>) -> Outcome {
    sorted(call, call.optional("descending")?.unwrap_or(false))
}

pub fn sort(call: &Call<'_>) -> Outcome {
    Ok(indexing::take_along_axis(call.input(0), argsort(call)?, call.axis()?)?)
}

pub fn top_k(call: &Call<'_>) -> Outcome {
    let count = narrow("count", call.required("count")?)?;
    along(&sorted(call, true)?, call.axis()?, (0..count).index_op())
}

/// The order of the elements, int32. Falling, it is the rising one of the reversed elements, reversed: equal ones stay in their
/// order.
fn sorted(call: &Call<'_>, descending: bool) -> Outcome {
    let (x, axis) = (stop_gradient(call.input(0))?, call.axis()?);
    if !descending {
        return Ok(ops::argsort_axis(&x, axis)?.as_dtype(Dtype::Int32)?);
    }
    let reversed = |x: &Array| along(x, axis, (..).stride_by(-1).index_op());
    let rising = ops::argsort_axis(reversed(&x)?, axis)?.as_dtype(Dtype::Int32)?;
    Ok(Array::from_int(x.dim(axis) - 1).subtract(reversed(&rising)?)?)
}

/// These places of an axis.
fn along(x: &Array, axis: i32, places: ArrayIndexOp<'_>) -> Result<Array, Fault> {
    let mut ranges: Vec<ArrayIndexOp<'_>> = (0..axis).map(|_| (..).index_op()).collect();
    ranges.push(places);
    Ok(x.try_index(&ranges[..])?)
}
