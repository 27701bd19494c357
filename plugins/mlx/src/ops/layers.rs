//! The operations of transformer layers: attributes are read here, shapes and mathematics are [`crate::fused`]'s.

use mlx_rs::ops;

use super::call::narrow;
use super::{Call, Outcome};
use crate::fault::Fault;
use crate::fused;

pub fn linear(call: &Call<'_>) -> Outcome {
    let (x, weight) = (call.input(0), call.input(1));
    let product = fused::linear(x, weight)?;
    let Some(bias) = call.inputs().get(2) else { return Ok(product) };
    if bias.shape() != [weight.dim(0)] {
        return Err(Fault::new("expected x [.., in], a weight [out, in] and a bias [out]"));
    }
    Ok(product.add(bias)?)
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
    Ok(fused::attention(call.input(0), call.input(1), call.input(2), None, scale as f32, causal)?)
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
