//! The operations of transformer layers: shapes are checked here, the mathematics is MLX's.

use mlx_rs::fast::{self, ScaledDotProductAttentionMask};
use mlx_rs::ops::indexing::take_along_axis;
use mlx_rs::ops::{self, concatenate};
use mlx_rs::{Array, Dtype};

use super::{Call, Outcome};
use crate::fault::Fault;

/// Refuses shapes that do not fit, in the words of the operation's documentation.
fn check(fits: bool, expected: &str) -> Result<(), Fault> {
    if fits { Ok(()) } else { Err(Fault::new(format!("expected {expected}"))) }
}

fn last(array: &Array) -> Option<i32> {
    array.shape().last().copied()
}

pub fn linear(call: &Call<'_>) -> Outcome {
    let (x, weight, bias) = (call.input(0), call.input(1), call.inputs().get(2));
    let fits = weight.ndim() == 2
        && last(x).is_some()
        && last(x) == last(weight)
        && bias.is_none_or(|bias| bias.shape() == [weight.dim(0)]);
    check(fits, "x [.., in], a weight [out, in] and, with a bias, [out]")?;
    let weight = weight.transpose()?;
    Ok(match bias {
        Some(bias) => ops::addmm(bias, x, weight, None, None)?,
        None => x.matmul(weight)?,
    })
}

pub fn rms_norm(call: &Call<'_>) -> Outcome {
    let (x, weight, eps) = (call.input(0), call.input(1), call.required::<f64>("eps")?);
    check(weight.ndim() == 1 && last(x) == last(weight), "x [.., D] and a weight [D]")?;
    Ok(fast::rms_norm(x, Some(weight), eps as f32)?)
}

pub fn rope(call: &Call<'_>) -> Outcome {
    let (x, inverse_frequencies, positions) = (call.input(0), call.input(1), call.inputs().get(2));
    let offset = call.optional::<i64>("offset")?.unwrap_or(0);
    let scale = call.optional::<f64>("scale")?.unwrap_or(1.0);
    let fits = x.ndim() == 4
        && x.dim(3) % 2 == 0
        && inverse_frequencies.shape() == [x.dim(3) / 2]
        && positions.is_none_or(|positions| positions.shape() == [x.dim(0), x.dim(2)]);
    check(fits, "x [B, H, T, D], inverse frequencies [D/2] and, with positions, [B, T]")?;
    let positions = match positions {
        Some(_) if offset != 0 => return Err(Fault::new("takes positions or an offset, not both")),
        // [B, T] → [B, 1, T, 1], so that they broadcast over heads and frequencies.
        Some(positions) => positions.reshape(&[x.dim(0), 1, x.dim(2), 1])?,
        None => ops::arange::<i64, i32>(offset, offset + i64::from(x.dim(2)), 1)?.reshape(&[1, 1, x.dim(2), 1])?,
    };
    let angles = positions.as_dtype(Dtype::Float32)?.multiply(inverse_frequencies)?;
    let scale = Array::from_f32(scale as f32);
    let cosine = angles.cos()?.multiply(&scale)?.as_dtype(x.dtype())?;
    let sine = angles.sin()?.multiply(&scale)?.as_dtype(x.dtype())?;
    let halves = ops::split_equal(x, 2, 3)?;
    let (left, right) = (&halves[0], &halves[1]);
    let rotated = [
        left.multiply(&cosine)?.subtract(right.multiply(&sine)?)?,
        right.multiply(&cosine)?.add(left.multiply(&sine)?)?,
    ];
    Ok(concatenate(&rotated, 3)?)
}

pub fn attention(call: &Call<'_>) -> Outcome {
    let (queries, keys, values) = (call.input(0), call.input(1), call.input(2));
    let (scale, causal) = (call.required::<f64>("scale")?, call.optional("causal")?.unwrap_or(false));
    let fits = queries.ndim() == 4
        && keys.ndim() == 4
        && keys.shape() == values.shape()
        && queries.dim(0) == keys.dim(0)
        && queries.dim(3) == keys.dim(3)
        && keys.dim(1) > 0
        && queries.dim(1) % keys.dim(1) == 0
        && (!causal || queries.dim(2) <= keys.dim(2));
    check(fits, "queries [B, H, T, D], keys and values [B, H_kv, S, D] with H_kv dividing H, and T ≤ S when causal")?;
    let mask = causal.then_some(ScaledDotProductAttentionMask::Causal);
    Ok(fast::scaled_dot_product_attention(queries, keys, values, scale as f32, mask, None)?)
}

pub fn swiglu(call: &Call<'_>) -> Outcome {
    let (gate, up) = (call.input(0), call.input(1));
    check(gate.shape() == up.shape(), "gate and up of the same shape")?;
    Ok(gate.multiply(ops::sigmoid(gate)?)?.multiply(up)?)
}

pub fn cross_entropy(call: &Call<'_>) -> Outcome {
    let (logits, targets) = (call.input(0), call.input(1));
    let fits = logits.ndim() == 2 && targets.shape() == [logits.dim(0)] && targets.dtype() == Dtype::Int32;
    check(fits, "logits [N, V] and int32 targets [N]")?;
    // Half precision cannot hold a sum over a vocabulary.
    let logits = logits.as_dtype(Dtype::Float32)?;
    let rows = logits.dim(0);
    let chosen = take_along_axis(&logits, targets.reshape(&[rows, 1])?, 1)?.reshape(&[rows])?;
    Ok(logits.logsumexp_axes(&[1], false)?.subtract(chosen)?)
}

pub fn embedding(call: &Call<'_>) -> Outcome {
    let (weight, ids) = (call.input(0), call.input(1));
    check(weight.ndim() == 2 && ids.dtype() == Dtype::Int32, "a weight [V, D] and int32 ids")?;
    Ok(weight.take_axis(ids, 0)?)
}
