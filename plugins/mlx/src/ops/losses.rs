//! The operations of losses.

use mlx_rs::{Array, Dtype as MlxDtype, ops};

use super::{Call, Outcome, layers};
use crate::fused::{self, TokenLosses};

pub fn cross_entropy(call: &Call<'_>) -> Outcome {
    let (logits, targets) = (call.input(0), call.input(1));
    if logits.dim(1) == 0 {
        // Every target is beyond the vocabulary.
        let is_trained = targets.ge(Array::from_int(0))?;
        return Ok(ops::select(is_trained, Array::from_f32(f32::NAN), Array::from_f32(0.0))?);
    }
    Ok(fused::cross_entropy(logits, targets)?)
}

/// The logits are kept for their gradient where they are few, and never all there where they are many or their products are rounded to
/// bfloat16. Else half precision is widened first.
pub fn token_losses(call: &Call<'_>) -> Outcome {
    let (hidden, weight, targets, bias) = (call.input(0), call.input(1), call.input(2), call.given(3));
    let (rows, vocabulary, width) = (hidden.dim(0), weight.dim(0), hidden.dim(1));
    let at_a_time = call.optional::<i64>("rows")?.map(|rows| i32::try_from(rows).unwrap_or(i32::MAX));
    let scale = call.optional::<f64>("scale")?.map(|scale| scale as f32);
    let soft_cap = call.optional::<f64>("soft_cap")?.map(|cap| cap as f32);
    let operands = layers::operands(call)?;
    let is_bf16 = |x: &Array| x.dtype() == MlxDtype::Bfloat16;
    // As in the other products of layers.
    let rounds = operands == Some(MlxDtype::Bfloat16) || operands.is_none() && is_bf16(hidden);
    let keeps = at_a_time.is_none() && !rounds && TokenLosses::keeps(rows, vocabulary);
    let of = |x: &Array| if rounds && is_bf16(x) { Ok(x.clone()) } else { fused::convert(x, MlxDtype::Float32) };
    let of_product = |x: &Array| match operands {
        Some(operands) if !rounds && !keeps => fused::rounded(x, operands),
        _ => of(x),
    };
    let (hidden, weight, bias) = (of_product(hidden)?, of_product(weight)?, bias.map(of).transpose()?);
    if !keeps {
        let tile = TokenLosses::tile(rows, vocabulary, width, rounds);
        let tile = at_a_time.map_or(tile, |rows| (rows, vocabulary));
        let options = TokenLosses { scale: scale.unwrap_or(1.0), soft_cap, tile, rounds };
        return Ok(fused::token_losses(&hidden, &weight, targets, bias.as_ref(), &options)?);
    }
    let mut logits = match operands {
        Some(operands) => fused::rounded_linear(&hidden, &weight, operands)?,
        None => fused::linear(&hidden, &weight)?,
    };
    if let Some(bias) = bias {
        logits = logits.add(bias)?;
    }
    if let Some(scale) = scale {
        logits = logits.multiply(Array::from_f32(scale))?;
    }
    if let Some(cap) = soft_cap.map(Array::from_f32) {
        logits = ops::tanh(logits.divide(&cap)?)?.multiply(&cap)?;
    }
    Ok(fused::cross_entropy(&logits, targets)?)
}
