//! Operations without inputs.

use mlx_rs::{Array, Dtype, ops, random};

use super::{Call, Outcome, call::narrow};
use crate::fault::Fault;

fn dtype(call: &Call<'_>) -> Result<Dtype, Fault> {
    crate::dtype::to_mlx(call.required("dtype")?).map_err(|error| Fault::new(error.message()))
}

pub fn full(call: &Call<'_>) -> Outcome {
    let (value, shape, dtype) = (call.required::<f64>("value")?, call.ints("shape")?, dtype(call)?);
    if let Some(&length) = shape.iter().find(|&&length| length < 0) {
        return Err(Fault::new(format!("attribute \"shape\": an axis cannot have length {length}")));
    }
    // Contiguous: a constant may be read, and written to, like any other tensor.
    Ok(ops::broadcast_to(scalar(value, dtype)?, &shape)?.contiguous()?)
}

/// A scalar of this type with exactly this value, or the nearest one for floating-point types.
fn scalar(value: f64, dtype: Dtype) -> Outcome {
    let (least, most) = match dtype {
        Dtype::Float64 => return Ok(Array::from_f64(value)),
        dtype if dtype.is_float() => return Ok(Array::from_f32(value as f32).as_dtype(dtype)?),
        Dtype::Bool => (0.0, 1.0),
        Dtype::Uint8 => (0.0, f64::from(u8::MAX)),
        Dtype::Uint32 => (0.0, f64::from(u32::MAX)),
        Dtype::Int32 => (f64::from(i32::MIN), f64::from(i32::MAX)),
        // Beyond this, a real number does not say which integer is meant.
        _ => (-(2f64.powi(53)), 2f64.powi(53)),
    };
    if value.fract() != 0.0 || !(least..=most).contains(&value) {
        return Err(Fault::new(format!("attribute \"value\": {value} is no value of the element type {dtype:?}")));
    }
    Ok(Array::from_slice(&[value as i64], &[]).as_dtype(dtype)?)
}

/// The generator of MLX and JAX (Salmon et al. 2011, Threefry): the same numbers for the same key on every device.
pub fn random_uniform(call: &Call<'_>) -> Outcome {
    let (key, shape, dtype) = (call.required::<i64>("key")?, call.ints("shape")?, dtype(call)?);
    let key = random::key(key as u64)?;
    Ok(random::uniform::<_, f32>(0f32, 1f32, &shape[..], &key)?.as_dtype(dtype)?)
}

pub fn arange(call: &Call<'_>) -> Outcome {
    let count = call.required::<i64>("count")?;
    let stop = narrow("count", count)?;
    if stop < 0 {
        return Err(Fault::new(format!("attribute \"count\" cannot be {count}")));
    }
    Ok(ops::arange::<i32, i32>(0, stop, 1)?.as_dtype(dtype(call)?)?)
}
