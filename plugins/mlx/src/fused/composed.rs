//! The same operations composed of MLX's own, for every device and type. Contracts are those of the functions in [`super`];
//! shapes are not checked here.

use std::ffi::CStr;

use mlx_rs::error::{Exception, Result};
use mlx_rs::fast::{self, ScaledDotProductAttentionMask};
use mlx_rs::ops::indexing::take_along_axis;
use mlx_rs::ops::{self, concatenate};
use mlx_rs::{Array, Dtype, random};

use super::{AttentionExtras, AttentionOptions, Function, Quantized, RopeTables};

/// [`super::cross_entropy`].
pub fn cross_entropy(logits: &Array, targets: &Array) -> Result<Array> {
    // Half precision cannot hold a sum over a vocabulary.
    let logits = logits.as_dtype(Dtype::Float32)?;
    let (rows, width) = (logits.dim(0), logits.dim(1));
    let inside = ops::clip(targets, (Array::from_int(0), Array::from_int(width - 1)))?;
    let chosen = take_along_axis(&logits, inside.reshape(&[rows, 1])?, 1)?.reshape(&[rows])?;
    let losses = logits.logsumexp_axes(&[1], false)?.subtract(chosen)?;
    let known = ops::select(targets.lt(Array::from_int(width))?, losses, Array::from_f32(f32::NAN))?;
    ops::select(targets.ge(Array::from_int(0))?, known, Array::from_f32(0.0))
}

/// [`super::function`].
pub fn function(x: &Array, which: Function) -> Result<Array> {
    match which {
        Function::Exp => x.exp(),
        Function::Sigmoid => ops::sigmoid(x),
        Function::Silu => x.multiply(ops::sigmoid(x)?),
        Function::Erf => ops::erf(x),
        Function::Sin => x.sin(),
        Function::Cos => x.cos(),
        Function::Softplus => ops::logaddexp(x, Array::from_f32(0.0)),
    }
}

/// [`super::sum`].
pub fn sum(x: &Array, first: i32, axes: i32) -> Result<Array> {
    x.sum_axes(&(first..first + axes).collect::<Vec<_>>(), false)
}

/// [`super::swiglu`].
pub fn swiglu(gate: &Array, up: &Array) -> Result<Array> {
    gate.multiply(ops::sigmoid(gate)?)?.multiply(up)
}

/// [`super::rms_norm`].
pub fn rms_norm(x: &Array, weight: &Array, eps: f32) -> Result<Array> {
    fast::rms_norm(x, Some(weight), eps)
}

/// [`super::rope_tables`].
pub fn rope_tables(positions: &Array, inv_freq: &Array, factor: f32) -> Result<RopeTables> {
    let angles = positions.reshape(&[-1, 1])?.as_dtype(Dtype::Float32)?.multiply(inv_freq)?;
    let factor = Array::from_f32(factor);
    Ok(RopeTables { cos: angles.cos()?.multiply(&factor)?, sin: angles.sin()?.multiply(&factor)? })
}

/// [`super::rope`].
pub fn rope(x: &Array, tables: &RopeTables) -> Result<Array> {
    let (positions, half) = (x.dim(2), tables.cos.dim(1));
    let spread = |table: &Array| table.reshape(&[-1, 1, positions, half])?.as_dtype(x.dtype());
    let (cos, sin) = (spread(&tables.cos)?, spread(&tables.sin)?);
    let parts = ops::split_at_indices(x, &[half, 2 * half], 3)?;
    let (left, right) = (&parts[0], &parts[1]);
    let rotated = [
        left.multiply(&cos)?.subtract(right.multiply(&sin)?)?,
        right.multiply(&cos)?.add(left.multiply(&sin)?)?,
        parts[2].clone(),
    ];
    concatenate(&rotated, 3)
}

/// [`super::attention`].
pub fn attention(
    query: &Array,
    key: &Array,
    value: &Array,
    extras: AttentionExtras<'_>,
    options: &AttentionOptions,
) -> Result<Array> {
    let &AttentionOptions { scale, causal, window, soft_cap, dropout } = options;
    let AttentionExtras { segments, mask, sinks } = extras;
    let visible = || visible(query.dim(2), key, segments, causal, window);
    if soft_cap.is_some() || dropout.is_some() {
        return attention_step_by_step(query, key, value, visible()?.as_ref(), extras, options);
    }
    if segments.is_none() && window.is_none() && mask.is_none() {
        let mask = causal.then_some(ScaledDotProductAttentionMask::Causal);
        return fast::scaled_dot_product_attention(query, key, value, scale, mask, sinks);
    }
    let mask = match (visible()?, mask) {
        (Some(visible), Some(mask)) => Some(ops::select(visible, mask, minus_infinity(mask)?)?),
        (visible, mask) => visible.or(mask.cloned()),
    };
    fast::scaled_dot_product_attention(query, key, value, scale, mask.as_ref().map(Into::into), sinks)
}

fn minus_infinity(like: &Array) -> Result<Array> {
    Array::from_f32(f32::NEG_INFINITY).as_dtype(like.dtype())
}

/// Which keys each query sees, boolean, broadcast to `[B, H, T, S]`; `None` where all do.
fn visible(
    queries: i32,
    key: &Array,
    segments: Option<&Array>,
    causal: bool,
    window: Option<i32>,
) -> Result<Option<Array>> {
    let (batch, keys) = (key.dim(0), key.dim(2));
    let places = ops::arange::<i32, i32>(keys - queries, keys, 1)?;
    let (column, row) = (places.reshape(&[queries, 1])?, ops::arange::<i32, i32>(0, keys, 1)?.reshape(&[1, keys])?);
    let mut masks = Vec::new();
    if let Some(segments) = segments {
        let own = segments.take_axis(&places, 1)?.reshape(&[batch, 1, queries, 1])?;
        masks.push(own.eq(segments.reshape(&[batch, 1, 1, keys])?)?);
    }
    if causal || window.is_some() {
        masks.push(column.ge(&row)?);
    }
    if let Some(window) = window {
        masks.push(column.subtract(Array::from_int(window))?.lt(&row)?);
    }
    let mut masks = masks.into_iter();
    let Some(first) = masks.next() else { return Ok(None) };
    masks.try_fold(first, |all, mask| all.logical_and(mask)).map(Some)
}

/// Attention with a cap on its scores (Gemma 2) or with dropout (GPT-2), which MLX has no kernel for.
fn attention_step_by_step(
    query: &Array,
    key: &Array,
    value: &Array,
    visible: Option<&Array>,
    AttentionExtras { mask, sinks, .. }: AttentionExtras<'_>,
    options: &AttentionOptions,
) -> Result<Array> {
    let (batch, heads, queries, width) = (query.dim(0), query.dim(1), query.dim(2), query.dim(3));
    let (groups, keys) = (key.dim(1), key.dim(2));
    // [B, H_kv, H / H_kv, T, D] against [B, H_kv, 1, S, D].
    let query = query.multiply(Array::from_f32(options.scale).as_dtype(query.dtype())?)?;
    let query = query.reshape(&[batch, groups, heads / groups, queries, width])?;
    let (key, value) = (key.expand_dims(2)?, value.expand_dims(2)?);
    let mut scores = query.matmul(key.swap_axes(-1, -2)?)?.as_dtype(Dtype::Float32)?;
    if let Some(cap) = options.soft_cap.map(Array::from_f32) {
        scores = ops::tanh(scores.divide(&cap)?)?.multiply(&cap)?;
    }
    if let Some(mask) = mask {
        let all = ops::broadcast_to(mask, &[mask.dim(0), heads, mask.dim(2), keys])?;
        scores = scores.add(all.reshape(&[mask.dim(0), groups, heads / groups, mask.dim(2), keys])?)?;
    }
    if let Some(visible) = visible {
        // One more axis, for the groups of heads.
        let visible = if visible.ndim() == 4 { visible.expand_dims(2)? } else { visible.clone() };
        scores = ops::select(visible, scores, Array::from_f32(f32::NEG_INFINITY))?;
    }
    let mut weights = match sinks {
        Some(sinks) => {
            let sinks = sinks.as_dtype(Dtype::Float32)?.reshape(&[1, groups, heads / groups, 1, 1])?;
            let sinks = ops::broadcast_to(sinks, &[batch, groups, heads / groups, queries, 1])?;
            let weights = ops::softmax_axis(concatenate(&[scores, sinks], 4)?, -1, true)?;
            ops::split_at_indices(&weights, &[keys], 4)?.swap_remove(0)
        }
        None => ops::softmax_axis(&scores, -1, true)?,
    };
    if let Some((rate, key)) = options.dropout {
        let drawn = random::uniform::<_, f32>(0f32, 1f32, &[batch, heads, queries, keys], Some(&random::key(key)?))?;
        let kept = drawn.lt(Array::from_f32(1.0 - rate))?.as_dtype(Dtype::Float32)?.reshape(weights.shape())?;
        weights = weights.multiply(kept)?.divide(Array::from_f32(1.0 - rate))?;
    }
    weights.as_dtype(value.dtype())?.matmul(value)?.reshape(&[batch, heads, queries, width])
}

/// [`super::checked_indices`], which evaluates the indices.
pub fn checked_indices(operation: &CStr, indices: &Array, length: i32, from_end: bool) -> Result<Array> {
    let given = indices.as_dtype(Dtype::Int64)?.contiguous()?;
    given.eval()?;
    let inside = |index: i64| (if from_end { -i64::from(length) } else { 0 }..i64::from(length)).contains(&index);
    if let Some((place, index)) = given.as_slice::<i64>().iter().enumerate().find(|&(_, &index)| !inside(index)) {
        return Err(Exception::custom(format!(
            "{}: index {index} (the one at place {place}) is out of range for an axis of length {length}",
            operation.to_string_lossy()
        )));
    }
    let counted = ops::select(given.lt(Array::from_int(0))?, given.add(Array::from_int(length))?, given)?;
    counted.as_dtype(Dtype::Int32)
}

/// [`super::embedding`].
pub fn embedding(table: &Array, ids: &Array) -> Result<Array> {
    table.take_axis(ids, 0)
}

/// `grouped_linear` of the module above.
pub fn grouped_linear(rows: &Array, weight: &Array, groups: &Array) -> Result<Array> {
    let products = ops::gather_mm(rows.expand_dims(1)?, weight.swap_axes(1, 2)?, None, groups, true)?;
    products.squeeze_axes(&[1])
}

/// [`super::product`].
pub fn product(x: &Array, y: &Array, operands: Dtype) -> Result<Array> {
    // A device that adds in float32 does the same with half the bytes.
    if x.dtype() == operands && !super::on_cpu() {
        return x.matmul(y.as_dtype(operands)?);
    }
    super::rounded(x, operands)?.matmul(super::rounded(y, operands)?)?.as_dtype(x.dtype())
}

/// [`super::linear`] of f32.
pub fn linear(x: &Array, weight: &Array) -> Result<Array> {
    x.matmul(weight.transpose()?)
}

/// [`super::dequantize`].
pub fn dequantize(weight: &Quantized<'_>) -> Result<Array> {
    let &Quantized { words, scales, biases, group_size, bits } = weight;
    let shape = [&scales.shape()[..scales.ndim() - 1], &[scales.dim(-1) * group_size]].concat();
    // MLX makes matrices whole.
    let matrix = |x: &Array, dtype| x.as_dtype(dtype)?.reshape(&[-1, x.dim(-1)]);
    let [scales, biases] = [matrix(scales, Dtype::Float32)?, matrix(biases, Dtype::Float32)?];
    ops::dequantize(matrix(words, Dtype::Uint32)?, scales, &biases, group_size, bits)?.reshape(&shape)
}

/// Rows from which on it is faster to make the weight of its words first: on a CPU MLX's own product takes one row at a time.
const MANY_ROWS: usize = 8;

/// [`super::quantized_linear`]. MLX's own product serves the few rows of a generation step.
pub fn quantized_linear(x: &Array, weight: &Quantized<'_>, recording: bool) -> Result<Array> {
    let &Quantized { words, scales, biases, group_size, bits } = weight;
    let rows = x.size() / x.dim(-1).max(1) as usize;
    if rows >= MANY_ROWS || recording {
        return super::linear(x, &mlx_rs::stop_gradient(dequantize(weight)?)?);
    }
    let [scales, biases] = [scales.as_dtype(x.dtype())?, biases.as_dtype(x.dtype())?];
    ops::quantized_matmul(x, words, scales, &biases, true, group_size, bits)
}
