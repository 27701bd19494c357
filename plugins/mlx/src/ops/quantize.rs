//! Affine quantisation, computed in float32.

use mlx_rs::{Array, Dtype, ops};

use super::{Call, Outcome, call::narrow, layers};
use crate::fault::Fault;
use crate::fused::{self, Quantized};

fn group_size_and_bits(call: &Call<'_>) -> Result<(i32, i32), Fault> {
    Ok((narrow("group_size", call.required("group_size")?)?, narrow("bits", call.required("bits")?)?))
}

/// The weight of which words are the input at this place, and scales and biases follow.
fn weight<'a>(call: &Call<'a>, words: usize) -> Result<Quantized<'a>, Fault> {
    let (group_size, bits) = group_size_and_bits(call)?;
    let [scales, biases] = [call.input(words + 1), call.input(words + 2)];
    Ok(Quantized { words: call.input(words), scales, biases, group_size, bits })
}

pub fn quantize(call: &Call<'_>) -> Result<Vec<Array>, Fault> {
    let (weight, (group_size, bits)) = (call.input(0), group_size_and_bits(call)?);
    // MLX quantises matrices.
    let matrix = weight.as_dtype(Dtype::Float32)?.reshape(&[-1, weight.dim(-1)])?;
    let (words, scales, biases) = ops::quantize(matrix, group_size, bits)?;
    let shaped = |x: Array| {
        let rows = &weight.shape()[..weight.ndim() - 1];
        x.reshape(&[rows, &[x.dim(1)]].concat())
    };
    Ok(vec![shaped(words)?, shaped(scales)?, shaped(biases)?])
}

pub fn dequantize(call: &Call<'_>) -> Outcome {
    let weight = weight(call, 0)?;
    let of_float = |x: &Array| if x.dtype() == Dtype::Float64 { x.as_dtype(Dtype::Float32) } else { Ok(x.clone()) };
    let (scales, biases) = (of_float(weight.scales)?, of_float(weight.biases)?);
    Ok(fused::dequantize(&Quantized { scales: &scales, biases: &biases, ..weight })?)
}

pub fn quantized_linear(call: &Call<'_>) -> Outcome {
    let (x, weight, operands) = (call.input(0), weight(call, 1)?, layers::operands(call)?);
    let product = |x: &Array| fused::quantized_linear(x, &weight, operands, call.recording);
    match call.given(4) {
        None => Ok(product(x)?),
        // Added before the result is rounded.
        Some(bias) => Ok(product(&fused::convert(x, Dtype::Float32)?)?.add(fused::convert(bias, Dtype::Float32)?)?),
    }
}
