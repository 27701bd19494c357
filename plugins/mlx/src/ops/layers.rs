//! The operations of transformer layers: attributes are read here, shapes and mathematics are [`crate::fused`]'s.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use mlx_rs::{Array, Dtype, fast, ops};

use super::call::{mlx_type, narrow};
use super::{Call, Outcome};
use crate::fault::Fault;
use crate::fused::{self, AttentionExtras, AttentionOptions};

pub fn matmul(call: &Call<'_>) -> Outcome {
    match operands(call)? {
        Some(operands) => Ok(fused::product(call.input(0), call.input(1), operands)?),
        None => Ok(call.input(0).matmul(call.input(1))?),
    }
}

pub fn linear(call: &Call<'_>) -> Outcome {
    let (x, weight) = (call.input(0), call.input(1));
    let half = Some(x.dtype()).filter(|&dtype| fused::is_half(dtype));
    let operands = operands(call)?.or(half);
    let product = |x: &Array| match operands {
        Some(operands) => fused::rounded_linear(x, weight, operands),
        None => fused::linear(x, weight),
    };
    match call.given(2) {
        None => Ok(product(x)?),
        Some(bias) if half.is_none() => Ok(product(x)?.add(bias)?),
        // Added before the result is rounded.
        Some(bias) => Ok(product(&fused::convert(x, Dtype::Float32)?)?.add(fused::convert(bias, Dtype::Float32)?)?),
    }
}

pub fn gather_linear(call: &Call<'_>) -> Outcome {
    let (x, weight, indices) = (call.input(0), call.input(1), call.input(2));
    match operands(call)? {
        Some(operands) => {
            let [x, weight] = [fused::rounded(x, operands)?, fused::rounded(weight, operands)?];
            Ok(fused::gather_linear(&x, &weight, indices)?)
        }
        None => Ok(fused::gather_linear(x, weight, indices)?),
    }
}

/// The type that operands are rounded to.
pub fn operands(call: &Call<'_>) -> Result<Option<Dtype>, Fault> {
    call.optional::<mdt_plugin_api::Dtype>("operands")?.map(mlx_type).transpose()
}

pub fn rms_norm(call: &Call<'_>) -> Outcome {
    let eps = call.required::<f64>("eps")?;
    Ok(fused::rms_norm(call.input(0), call.input(1), eps as f32)?)
}

pub fn rope(call: &Call<'_>) -> Outcome {
    let (x, inverse_frequencies) = (call.input(0), call.input(1));
    let offset = call.optional::<i64>("offset")?.unwrap_or(0);
    let scale = call.optional::<f64>("scale")?.unwrap_or(1.0);
    let counted;
    let positions = match call.given(2) {
        Some(positions) => positions,
        None => {
            counted = count(offset, x.dim(2))?;
            &counted
        }
    };
    Ok(fused::rope(x, &fused::rope_tables(positions, inverse_frequencies, scale as f32)?)?)
}

/// `offset`, `offset + 1`, … as int32.
fn count(offset: i64, length: i32) -> Outcome {
    let end = narrow("offset", offset + i64::from(length))?;
    Ok(ops::arange::<i32, i32>(narrow("offset", offset)?, end, 1)?)
}

pub fn attention(call: &Call<'_>) -> Outcome {
    let (query, key, value) = (call.input(0), call.input(1), call.input(2));
    // One that reaches the first key changes nothing.
    let window = call.optional::<i64>("window")?.filter(|&window| window < i64::from(key.dim(2)));
    let dropout = call.optional::<f64>("dropout")?.zip(call.optional::<i64>("key")?);
    let options = AttentionOptions {
        scale: call.required::<f64>("scale")? as f32,
        causal: call.optional("causal")?.unwrap_or(false),
        window: window.map(|window| window as i32),
        soft_cap: call.optional::<f64>("soft_cap")?.map(|cap| cap as f32),
        dropout: dropout.map(|(rate, key)| (rate as f32, key as u64)),
    };
    let extras = AttentionExtras { segments: call.given(3), mask: call.given(4), sinks: call.given(5) };
    Ok(fused::attention(query, key, value, extras, &options)?)
}

pub fn layer_norm(call: &Call<'_>) -> Outcome {
    Ok(fast::layer_norm(call.input(0), call.input(1), call.given(2), call.required::<f64>("eps")? as f32)?)
}

/// Composed in the order of PyTorch's formulas.
pub fn gelu(call: &Call<'_>) -> Outcome {
    let x = call.input(0);
    let number = |value: f64| Array::from_f32(value as f32).as_dtype(x.dtype());
    let one_plus = match call.optional::<&str>("approximate")?.unwrap_or("none") {
        "none" => ops::erf(x.multiply(number(FRAC_1_SQRT_2)?)?)?,
        "tanh" => {
            let cube = x.multiply(x)?.multiply(x)?.multiply(number(0.044715)?)?;
            ops::tanh(x.add(cube)?.multiply(number(FRAC_2_SQRT_PI * FRAC_1_SQRT_2)?)?)?
        }
        other => return Err(Fault::new(format!("attribute \"approximate\" is {other:?}; it knows none and tanh"))),
    };
    Ok(x.multiply(number(0.5)?)?.multiply(one_plus.add(number(1.0)?)?)?)
}

pub fn swiglu(call: &Call<'_>) -> Outcome {
    Ok(fused::swiglu(call.input(0), call.input(1))?)
}
