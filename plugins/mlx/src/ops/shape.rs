//! Operations that move or choose elements.

use std::ffi::CStr;

use mlx_rs::ops::{
    self,
    indexing::{ArrayIndex, ArrayIndexOp, TryIndexMutOp, TryIndexOp, take_along_axis as take_elements},
};

use super::{Call, Outcome};
use crate::fault::Fault;
use crate::fused;

pub fn reshape(call: &Call<'_>) -> Outcome {
    Ok(call.input(0).reshape(&call.ints("shape")?)?)
}

pub fn transpose(call: &Call<'_>) -> Outcome {
    Ok(call.input(0).transpose_axes(&call.ints("axes")?)?)
}

pub fn concatenate(call: &Call<'_>) -> Outcome {
    Ok(ops::concatenate(call.inputs(), call.axis()?)?)
}

/// MLX would clip bounds that lie outside; here they are an error, since a shorter result than asked for is a mistake.
pub fn slice(call: &Call<'_>) -> Outcome {
    let (x, start, stop) = (call.input(0), call.ints("start")?, call.ints("stop")?);
    if start.len() != x.ndim() || stop.len() != x.ndim() {
        return Err(Fault::new(format!(
            "needs a start and a stop for each of {} axes, not {} and {}",
            x.ndim(),
            start.len(),
            stop.len()
        )));
    }
    for (axis, ((&start, &stop), &length)) in start.iter().zip(&stop).zip(x.shape()).enumerate() {
        if !(0 <= start && start <= stop && stop <= length) {
            return Err(Fault::new(format!("{start}..{stop} is not a part of axis {axis}, which has length {length}")));
        }
    }
    let ranges: Vec<ArrayIndexOp<'_>> =
        start.iter().zip(&stop).map(|(&start, &stop)| (start..stop).index_op()).collect();
    Ok(x.try_index(&ranges[..])?)
}

pub fn slice_update(call: &Call<'_>) -> Outcome {
    let (x, update, start) = (call.input(0), call.input(1), call.ints("start")?);
    if start.len() != x.ndim() || update.ndim() != x.ndim() || update.dtype() != x.dtype() {
        return Err(Fault::new(format!("needs an update of the same type and {0} axes, and {0} starts", x.ndim())));
    }
    for (axis, ((&start, &length), &all)) in start.iter().zip(update.shape()).zip(x.shape()).enumerate() {
        if start < 0 || all - start < length {
            return Err(Fault::new(format!(
                "{length} elements from {start} on are not a part of axis {axis}, which has length {all}"
            )));
        }
    }
    let ranges: Vec<ArrayIndexOp<'_>> =
        start.iter().zip(update.shape()).map(|(&start, &length)| (start..start + length).index_op()).collect();
    let mut result = x.clone();
    result.try_index_mut(&ranges[..], update)?;
    Ok(result)
}

pub fn take(call: &Call<'_>) -> Outcome {
    let (x, axis) = (call.input(0), call.axis()?);
    Ok(x.take_axis(indices(call, c"take", axis)?, axis)?)
}

pub fn take_along_axis(call: &Call<'_>) -> Outcome {
    let (x, axis) = (call.input(0), call.axis()?);
    Ok(take_elements(x, indices(call, c"take_along_axis", axis)?, axis)?)
}

/// The second input as indices that lie in this axis of the first one.
fn indices(call: &Call<'_>, operation: &CStr, axis: i32) -> Outcome {
    let (x, rank) = (call.input(0), call.input(0).ndim() as i32);
    if !(-rank..rank).contains(&axis) {
        return Err(Fault::new(format!("axis {axis} is not one of {rank} axes")));
    }
    Ok(fused::checked_indices(operation, call.input(1), x.dim(axis), true)?)
}

pub fn broadcast_to(call: &Call<'_>) -> Outcome {
    Ok(ops::broadcast_to(call.input(0), &call.ints("shape")?)?)
}

pub fn cast(call: &Call<'_>) -> Outcome {
    let dtype = crate::dtype::to_mlx(call.required("dtype")?).map_err(|error| Fault::new(error.message()))?;
    Ok(call.input(0).as_dtype(dtype)?)
}

pub fn select(call: &Call<'_>) -> Outcome {
    Ok(ops::select(call.input(0), call.input(1), call.input(2))?)
}
