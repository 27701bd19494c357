//! Reductions, and what normalises with one.

use mlx_rs::{Array, Dtype, ops};

use super::call::narrow;
use super::{Call, Outcome, constant};
use crate::custom;
use crate::fault::Fault;
use crate::fused::{self, Function};

/// The axes to reduce (all when absent) and whether they stay with length 1.
fn axes(call: &Call<'_>) -> Result<(Vec<i32>, bool), Fault> {
    let axes = match call.optional::<&[i64]>("axes")? {
        Some(axes) => axes.iter().map(|&axis| narrow("axes", axis)).collect::<Result<_, _>>()?,
        None => (0..call.input(0).ndim() as i32).collect(),
    };
    Ok((axes, call.optional("keep_dims")?.unwrap_or(false)))
}

/// A reduction, which of nothing is `of_nothing`.
fn reduce(
    call: &Call<'_>,
    of_nothing: f64,
    apply: fn(&Array, &[i32], bool) -> mlx_rs::error::Result<Array>,
) -> Outcome {
    let x = call.input(0);
    if x.size() == 0 {
        let value = constant::scalar(of_nothing, x.dtype())?;
        return Ok(ops::broadcast_to(value, &call.result_shape()?)?.contiguous()?);
    }
    let (axes, keep_dims) = axes(call)?;
    Ok(apply(x, &axes, keep_dims)?)
}

pub fn sum(call: &Call<'_>) -> Outcome {
    reduce(call, 0.0, added)
}

pub fn mean(call: &Call<'_>) -> Outcome {
    reduce(call, f64::NAN, |x, axes, keep_dims| {
        let count: f64 = axes.iter().map(|&axis| f64::from(x.dim(axis))).product();
        added(x, axes, keep_dims)?.multiply(constant::like(1.0 / count, x)?)
    })
}

/// The sum over these axes, which may be counted from the end.
fn added(x: &Array, axes: &[i32], keep_dims: bool) -> mlx_rs::error::Result<Array> {
    let rank = x.ndim() as i32;
    let mut axes: Vec<i32> = axes.iter().map(|&axis| if axis < 0 { axis + rank } else { axis }).collect();
    axes.sort_unstable();
    let (Some(&first), count) = (axes.first(), axes.len() as i32) else { return Ok(x.clone()) };
    let are_neighbours = axes.iter().zip(first..).all(|(&axis, expected)| axis == expected);
    if !are_neighbours || x.dtype() != Dtype::Float32 {
        return x.sum_axes(&axes, keep_dims);
    }
    let sum = fused::sum(x, first, count)?;
    if keep_dims { sum.expand_dims_axes(&axes) } else { Ok(sum) }
}

pub fn max(call: &Call<'_>) -> Outcome {
    reduce(call, 0.0, |x, axes, keep_dims| x.max_axes(axes, keep_dims))
}

pub fn min(call: &Call<'_>) -> Outcome {
    reduce(call, 0.0, |x, axes, keep_dims| x.min_axes(axes, keep_dims))
}

pub fn log_sum_exp(call: &Call<'_>) -> Outcome {
    reduce(call, f64::NEG_INFINITY, |x, axes, keep_dims| x.logsumexp_axes(axes, keep_dims))
}

/// MLX's own exponentials are less exact.
pub fn softmax(call: &Call<'_>) -> Outcome {
    let (x, axis) = (call.input(0), call.axis()?);
    let exponentials = fused::function(&below_maximum(x, axis)?, Function::Exp)?;
    let value = exponentials.divide(added(&exponentials, &[axis], true)?)?;
    if !call.recording {
        return Ok(value);
    }
    Ok(custom::with_gradients(&[x], value, move |_, cotangent, value| {
        let weighted = cotangent.multiply(value)?;
        Ok(vec![weighted.subtract(value.multiply(added(&weighted, &[axis], true)?)?)?])
    })?)
}

pub fn log_softmax(call: &Call<'_>) -> Outcome {
    let (x, axis) = (call.input(0), call.axis()?);
    let below = below_maximum(x, axis)?;
    let value = below.subtract(added(&fused::function(&below, Function::Exp)?, &[axis], true)?.log()?)?;
    if !call.recording {
        return Ok(value);
    }
    Ok(custom::with_gradients(&[x], value, move |_, cotangent, value| {
        let softmax = fused::function(value, Function::Exp)?;
        Ok(vec![cotangent.subtract(softmax.multiply(added(cotangent, &[axis], true)?)?)?])
    })?)
}

fn below_maximum(x: &Array, axis: i32) -> mlx_rs::error::Result<Array> {
    x.subtract(x.max_axes(&[axis], true)?)
}

/// On a CPU in float64: MLX adds one by one.
pub fn cumulative_sum(call: &Call<'_>) -> Outcome {
    let (x, axis) = (call.input(0), call.axis()?);
    let reverse = call.optional("reverse")?.unwrap_or(false);
    let exclusive = call.optional("exclusive")?.unwrap_or(false);
    if x.dtype() == Dtype::Float32 && fused::on_cpu() {
        let sums = x.as_dtype(Dtype::Float64)?.cumsum(axis, reverse, !exclusive)?;
        return Ok(sums.as_dtype(Dtype::Float32)?);
    }
    Ok(x.cumsum(axis, reverse, !exclusive)?)
}
