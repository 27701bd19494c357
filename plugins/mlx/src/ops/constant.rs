//! Operations without inputs.

use mlx_rs::{Array, Dtype, ops, random};

use super::{
    Call, Outcome,
    call::{mlx_type, narrow},
};
use crate::fault::Fault;

fn dtype(call: &Call<'_>) -> Result<Dtype, Fault> {
    mlx_type(call.required("dtype")?)
}

pub fn full(call: &Call<'_>) -> Outcome {
    let (value, shape, dtype) = (call.required::<f64>("value")?, call.result_shape()?, dtype(call)?);
    // Contiguous: a constant may be read, and written to, like any other tensor.
    Ok(ops::broadcast_to(scalar(value, dtype)?, &shape)?.contiguous()?)
}

/// A scalar of this type with exactly this value, which an integer type holds, or the nearest one for floating-point types.
pub fn scalar(value: f64, dtype: Dtype) -> Outcome {
    Ok(match dtype {
        Dtype::Float64 => Array::from_f64(value),
        Dtype::Float32 => Array::from_f32(value as f32),
        dtype if dtype.is_float() => Array::from_f32(value as f32).as_dtype(dtype)?,
        Dtype::Uint64 => Array::from_slice(&[value as u64], &[]),
        dtype => Array::from_slice(&[value as i64], &[]).as_dtype(dtype)?,
    })
}

/// A scalar of x's floating-point type.
pub fn like(value: f64, x: &Array) -> mlx_rs::error::Result<Array> {
    match x.dtype() {
        Dtype::Float64 => Ok(Array::from_f64(value)),
        dtype => Array::from_f32(value as f32).as_dtype(dtype),
    }
}

/// The generator of MLX and JAX (Salmon et al. 2011, Threefry): the same numbers for the same key on every device.
pub fn random_uniform(call: &Call<'_>) -> Outcome {
    let (key, shape, dtype) = (call.required::<i64>("key")?, call.result_shape()?, dtype(call)?);
    let key = random::key(key as u64)?;
    Ok(random::uniform::<_, f32>(0f32, 1f32, &shape[..], &key)?.as_dtype(dtype)?)
}

pub fn arange(call: &Call<'_>) -> Outcome {
    let stop = narrow("count", call.required("count")?)?;
    Ok(ops::arange::<i32, i32>(0, stop, 1)?.as_dtype(dtype(call)?)?)
}
