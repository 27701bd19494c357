//! Reductions, and softmax, which normalises with one.

use mlx_rs::ops::{self, indexing};
use mlx_rs::{Array, Dtype, stop_gradient};

use super::{Call, Outcome, call::narrow};
use crate::fault::Fault;

/// The axes to reduce (all when absent) and whether they stay with length 1.
fn axes(call: &Call<'_>) -> Result<(Vec<i32>, bool), Fault> {
    let axes = match call.optional::<&[i64]>("axes")? {
        Some(axes) => axes.iter().map(|&axis| narrow("axes", axis)).collect::<Result<_, _>>()?,
        None => (0..call.input(0).ndim() as i32).collect(),
    };
    Ok((axes, call.optional("keep_dims")?.unwrap_or(false)))
}

fn reduce(call: &Call<'_>, apply: fn(&Array, &[i32], bool) -> mlx_rs::error::Result<Array>) -> Outcome {
    let (axes, keep_dims) = axes(call)?;
    Ok(apply(call.input(0), &axes, keep_dims)?)
}

pub fn sum(call: &Call<'_>) -> Outcome {
    reduce(call, |x, axes, keep_dims| x.sum_axes(axes, keep_dims))
}

pub fn mean(call: &Call<'_>) -> Outcome {
    reduce(call, |x, axes, keep_dims| x.mean_axes(axes, keep_dims))
}

pub fn max(call: &Call<'_>) -> Outcome {
    reduce(call, |x, axes, keep_dims| x.max_axes(axes, keep_dims))
}

pub fn log_sum_exp(call: &Call<'_>) -> Outcome {
    reduce(call, |x, axes, keep_dims| x.logsumexp_axes(axes, keep_dims))
}

/// MLX gives unsigned indices; the boundary promises int32, which token ids are.
pub fn argmax(call: &Call<'_>) -> Outcome {
    Ok(indexing::argmax_axis(call.input(0), call.axis()?, false)?.as_dtype(Dtype::Int32)?)
}

/// MLX sorts stably, so that equal elements keep their order.
pub fn top_k(call: &Call<'_>) -> Outcome {
    let (x, axis, count) = (call.input(0), call.axis()?, narrow("count", call.required("count")?)?);
    let rank = x.ndim() as i32;
    if !(-rank..rank).contains(&axis) || !(0..=x.dim(axis)).contains(&count) {
        return Err(Fault::new(format!("there are no {count} elements along axis {axis}")));
    }
    let falling = ops::argsort_axis(stop_gradient(x)?.negative()?, axis)?;
    let first = ops::arange::<i32, i32>(0, count, 1)?;
    Ok(falling.take_axis(first, axis)?.as_dtype(Dtype::Int32)?)
}

/// Sums in f32 also where the input is half precision.
pub fn softmax(call: &Call<'_>) -> Outcome {
    Ok(ops::softmax_axis(call.input(0), call.axis()?, true)?)
}
