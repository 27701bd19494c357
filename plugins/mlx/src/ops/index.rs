//! Operations that read or write where indices point. Indices are checked first: MLX itself reads and writes anywhere.

use std::ffi::CStr;

use mlx_rs::ops::indexing::take_along_axis as take_elements;
use mlx_rs::{Dtype, ops};

use super::{Call, Outcome};
use crate::{custom, fused};

/// The second input as indices that lie in the axis of the first one.
fn indices(call: &Call<'_>, operation: &CStr) -> Outcome {
    Ok(fused::checked_indices(operation, call.input(1), call.input(0).dim(call.axis()?), true)?)
}

pub fn take(call: &Call<'_>) -> Outcome {
    let (axis, indices) = (call.axis()?, indices(call, c"take")?);
    Ok(custom::adding_in_f32(call.recording, call.input(0), move |x| x.take_axis(&indices, axis))?)
}

pub fn take_along_axis(call: &Call<'_>) -> Outcome {
    let (axis, indices) = (call.axis()?, indices(call, c"take_along_axis")?);
    Ok(custom::adding_in_f32(call.recording, call.input(0), move |x| take_elements(x, &indices, axis))?)
}

pub fn embedding(call: &Call<'_>) -> Outcome {
    let ids = call.input(1).clone();
    Ok(custom::adding_in_f32(call.recording, call.input(0), move |table| fused::embedding(table, &ids))?)
}

pub fn scatter_add(call: &Call<'_>) -> Outcome {
    let (x, updates) = (call.input(0), call.input(2));
    if updates.size() == 0 {
        return Ok(x.clone());
    }
    Ok(custom::scatter_add(x, &indices(call, c"scatter_add")?, updates, call.axis()?)?)
}

pub fn scatter(call: &Call<'_>) -> Outcome {
    let (x, updates, axis) = (call.input(0), call.input(2), call.axis()?);
    if updates.size() == 0 {
        return Ok(x.clone());
    }
    let indices = indices(call, c"scatter")?;
    if !call.recording || !x.dtype().is_float() {
        return Ok(x.put_along_axis(&indices, updates, axis)?);
    }
    // MLX would give each of several updates of an element its gradient; only the last one of them is in the result.
    let mut shape = vec![1; x.ndim()];
    shape[axis as usize] = indices.dim(axis);
    let order = ops::arange::<i32, i32>(0, indices.dim(axis), 1)?.reshape(&shape)?;
    let order = ops::broadcast_to(order, indices.shape())?;
    let last = ops::zeros_dtype(x.shape(), Dtype::Int32)?.put_along_axis(&indices, &order, axis)?;
    let is_last = take_elements(last, &indices, axis)?.eq(order)?;
    let value = x.put_along_axis(&indices, updates, axis)?;
    Ok(custom::with_gradients(&[x, updates], value, move |_, cotangent, _| {
        let zeros = ops::zeros_dtype(indices.shape(), cotangent.dtype())?;
        let by_update = ops::select(&is_last, take_elements(cotangent, &indices, axis)?, &zeros)?;
        Ok(vec![cotangent.put_along_axis(&indices, &zeros, axis)?, by_update])
    })?)
}
