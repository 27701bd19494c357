//! The choice between elements.

use mlx_rs::{Array, ops};

use super::{Call, Outcome, call, elementwise};
use crate::custom;

/// MLX multiplies the cotangent by 0 and 1, which gives NaN where it is infinite.
pub fn select(call: &Call<'_>) -> Outcome {
    let (condition, a, b) = (call.input(0), call.input(1), call.input(2));
    if !call.recording || !call.result().dtype.is_float() {
        return Ok(ops::select(condition, a, b)?);
    }
    let (shape, dtype) = (call.result_shape()?, call::mlx_type(call.result().dtype)?);
    let prepared = |x: &Array| ops::broadcast_to(x.as_dtype(dtype)?, &shape);
    let [a, b] = [prepared(a)?, prepared(b)?];
    let value = ops::select(condition, &a, &b)?;
    let condition = condition.clone();
    Ok(custom::with_gradients(&[&a, &b], value, move |_, cotangent, _| elementwise::chosen(&condition, cotangent))?)
}
