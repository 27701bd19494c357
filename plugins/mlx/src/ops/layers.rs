//! The operations of transformer layers: attributes are read here, shapes and mathematics are [`crate::fused`]'s.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use mlx_rs::{Array, fast, ops};

use super::call::narrow;
use super::{Call, Outcome};
use crate::fault::Fault;
use crate::fused::{self, AttentionOptions};

pub fn linear(call: &Call<'_>) -> Outcome {
    let (x, weight) = (call.input(0), call.input(1));
    let product = fused::linear(x, weight)?;
    let Some(bias) = call.inputs().get(2) else { return Ok(product) };
    if bias.shape() != [weight.dim(0)] {
        return Err(Fault::new("expected x [.., in], a weight [out, in] and a bias [out]"));
    }
    Ok(product.add(bias)?)
}

pub fn gather_linear(call: &Call<'_>) -> Outcome {
    Ok(fused::gather_linear(call.input(0), call.input(1), call.input(2))?)
}

pub fn rms_norm(call: &Call<'_>) -> Outcome {
    let eps = call.required::<f64>("eps")?;
    Ok(fused::rms_norm(call.input(0), call.input(1), eps as f32)?)
}

pub fn rope(call: &Call<'_>) -> Outcome {
    let (x, inverse_frequencies, positions) = (call.input(0), call.input(1), call.inputs().get(2).copied());
    let offset = call.optional::<i64>("offset")?.unwrap_or(0);
    let scale = call.optional::<f64>("scale")?.unwrap_or(1.0);
    let fits = x.ndim() == 4
        && x.dim(3) % 2 == 0
        && inverse_frequencies.shape() == [x.dim(3) / 2]
        && positions.is_none_or(|positions| positions.shape() == [x.dim(0), x.dim(2)]);
    if !fits {
        let expected = "x [B, H, T, D], inverse frequencies [D/2] and, with positions, [B, T]";
        return Err(Fault::new(format!("expected {expected}")));
    }
    let counted;
    let positions = match positions {
        Some(_) if offset != 0 => return Err(Fault::new("takes positions or an offset, not both")),
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
    let (scale, causal) = (call.required::<f64>("scale")?, call.optional("causal")?.unwrap_or(false));
    let (query, key, value, segments) = (call.input(0), call.input(1), call.input(2), call.inputs().get(3).copied());
    let window = match call.optional::<i64>("window")? {
        Some(window) if window < 1 => return Err(Fault::new(format!("attribute \"window\" cannot be {window}"))),
        // One that reaches the first key changes nothing.
        Some(window) if query.ndim() == 4 && key.ndim() == 4 => {
            Some(narrow("window", window)?).filter(|&window| window < key.dim(2))
        }
        _ => None,
    };
    let soft_cap = call.optional::<f64>("soft_cap")?.map(|cap| cap as f32);
    let dropout = match (call.optional::<f64>("dropout")?, call.optional::<i64>("key")?) {
        (Some(rate), Some(key)) => Some((rate as f32, key as u64)),
        (None, None) => None,
        _ => return Err(Fault::new("takes the attributes \"dropout\" and \"key\" together")),
    };
    let options = AttentionOptions { scale: scale as f32, causal, window, soft_cap, dropout };
    Ok(fused::attention(query, key, value, segments, &options)?)
}

pub fn layer_norm(call: &Call<'_>) -> Outcome {
    let (x, weight, bias) = (call.input(0), call.input(1), call.inputs().get(2).copied());
    let width = x.shape().last().copied();
    let fits = |array: &Array| array.ndim() == 1 && Some(array.dim(0)) == width;
    if !fits(weight) || !bias.is_none_or(fits) {
        return Err(Fault::new("expected x [.., D], a weight [D] and, if any, a bias [D]"));
    }
    Ok(fast::layer_norm(x, weight, bias, call.required::<f64>("eps")? as f32)?)
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

pub fn cross_entropy(call: &Call<'_>) -> Outcome {
    Ok(fused::cross_entropy(call.input(0), call.input(1))?)
}

pub fn embedding(call: &Call<'_>) -> Outcome {
    Ok(fused::embedding(call.input(0), call.input(1))?)
}
