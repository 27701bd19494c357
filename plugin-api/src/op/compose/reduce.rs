//! Functions along axes.

use super::{Call, first, ints};
use crate::{Result, Tensor};

/// The axes that are reduced, counted from 0 or from the end, and whether they stay with length 1.
fn axes(call: &Call<'_>) -> Result<(Vec<i64>, bool)> {
    let all = || (0..call.types[0].map_or(0, |of| of.shape.len() as i64)).collect();
    let axes = call.attributes().optional::<&[i64]>("axes")?.map_or_else(all, <[i64]>::to_vec);
    Ok((axes, call.attributes().optional("keep_dims")?.unwrap_or(false)))
}

/// How many elements are reduced to one.
fn count(call: &Call<'_>, axes: &[i64]) -> Result<usize> {
    let shape = call.shape(0)?;
    Ok(axes.iter().map(|&axis| shape[if axis < 0 { axis + shape.len() as i64 } else { axis } as usize]).product())
}

pub fn mean(call: &Call<'_>) -> Result<Tensor> {
    let (axes, keep_dims) = axes(call)?;
    &call.real(0)?.sum_axes(&axes, keep_dims)? / count(call, &axes)? as f64
}

/// With the maximum subtracted, so that no exponential overflows. It cancels out, so no gradient flows through it.
pub fn log_sum_exp(call: &Call<'_>) -> Result<Tensor> {
    let (x, (axes, _)) = (call.real(0)?, axes(call)?);
    let shape = ints(&call.results[0].shape);
    if count(call, &axes)? == 0 {
        return x.number(f64::NEG_INFINITY)?.broadcast_to(&shape);
    }
    let max = x.stop_gradient()?.max_axes(&axes, true)?;
    // An infinite one would give Inf - Inf.
    let max = max.abs()?.less(f64::INFINITY)?.select(&max, &x.number(0.0)?)?;
    let sum = (&x - &max)?.exp()?.sum_axes(&axes, true)?;
    // All elements are −Inf: the gradient of log(0) would be Inf, and that of the elements 0 · Inf.
    let is_nothing = sum.equal(0.0)?;
    let log = (&is_nothing.select(&x.number(1.0)?, &sum)?.log()? + &max)?;
    is_nothing.select(&x.number(f64::NEG_INFINITY)?, &log)?.reshape(&shape)
}

/// x less its maximum along the axis, and that axis; the maximum cancels out, so no gradient flows through it.
fn shifted(call: &Call<'_>) -> Result<(Tensor, i64)> {
    let (x, axis) = (call.real(0)?, call.axis()?);
    if call.shape(0)?[axis] == 0 {
        return Ok((x, axis as i64));
    }
    let max = x.stop_gradient()?.max_axes(&[axis as i64], true)?;
    Ok(((&x - &max)?, axis as i64))
}

pub fn softmax(call: &Call<'_>) -> Result<Tensor> {
    let (x, axis) = shifted(call)?;
    let exp = x.exp()?;
    &exp / &exp.sum_axes(&[axis], true)?
}

pub fn log_softmax(call: &Call<'_>) -> Result<Tensor> {
    let (x, axis) = shifted(call)?;
    &x - &x.exp()?.sum_axes(&[axis], true)?.log()?
}

pub fn top_k(call: &Call<'_>) -> Result<Tensor> {
    let (axis, count) = (call.axis()?, call.attributes().required::<i64>("count")?);
    first(&call.input(0)?.argsort(axis as i64, true)?, axis, count as usize)
}

pub fn argmax(call: &Call<'_>) -> Result<Tensor> {
    largest(call, &call.input(0)?, call.axis()?)
}

/// The first of the largest elements along an axis, which is gone then.
fn largest(call: &Call<'_>, x: &Tensor, axis: usize) -> Result<Tensor> {
    x.top_k(1, axis as i64)?.reshape(&ints(&call.results[0].shape))
}

pub fn sort(call: &Call<'_>) -> Result<Tensor> {
    let (x, axis) = (call.input(0)?, call.axis()? as i64);
    let descending = call.attributes().optional("descending")?.unwrap_or(false);
    x.take_along_axis(&x.argsort(axis, descending)?, axis)
}

/// The largest of the logits with Gumbel noise.
pub fn random_categorical(call: &Call<'_>) -> Result<Tensor> {
    let logits = call.wide(0)?;
    let dtype = logits.tensor_type()?.dtype;
    let uniform = Tensor::random_uniform(call.compute, call.key()?, &ints(call.shape(0)?), dtype)?;
    let noise = uniform.maximum(2f64.powi(-32))?.log()?.negative()?.log()?;
    largest(call, &(&logits - &noise)?, call.shape(0)?.len() - 1)
}
