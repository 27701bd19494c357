//! Affine quantisation, computed in float32.

use mlx_rs::{Array, Dtype, ops, stop_gradient};

use super::{Call, Outcome, call::narrow};
use crate::fault::Fault;
use crate::fused;

fn group_size_and_bits(call: &Call<'_>) -> Result<(i32, i32), Fault> {
    Ok((narrow("group_size", call.required("group_size")?)?, narrow("bits", call.required("bits")?)?))
}

/// MLX quantises matrices.
fn matrix(x: &Array, dtype: Dtype) -> Outcome {
    Ok(x.as_dtype(dtype)?.reshape(&[-1, x.dim(-1)])?)
}

pub fn quantize(call: &Call<'_>) -> Result<Vec<Array>, Fault> {
    let (weight, (group_size, bits)) = (call.input(0), group_size_and_bits(call)?);
    let (words, scales, biases) = ops::quantize(matrix(weight, Dtype::Float32)?, group_size, bits)?;
    let shaped = |x: Array| {
        let rows = &weight.shape()[..weight.ndim() - 1];
        x.reshape(&[rows, &[x.dim(1)]].concat())
    };
    Ok(vec![shaped(words)?, shaped(scales)?, shaped(biases)?])
}

/// Words, scales and biases as the numbers that they stand for, float32.
fn dequantized([words, scales, biases]: [&Array; 3], (group_size, bits): (i32, i32)) -> Outcome {
    let shape = [&scales.shape()[..scales.ndim() - 1], &[scales.dim(-1) * group_size]].concat();
    let [scales, biases] = [matrix(scales, Dtype::Float32)?, matrix(biases, Dtype::Float32)?];
    Ok(ops::dequantize(matrix(words, Dtype::Uint32)?, scales, &biases, group_size, bits)?.reshape(&shape)?)
}

pub fn dequantize(call: &Call<'_>) -> Outcome {
    dequantized([call.input(0), call.input(1), call.input(2)], group_size_and_bits(call)?)
}

/// Rows from which on it is faster to make the weight of its words first: on a CPU MLX's own product takes one row at a time.
const MANY_ROWS: usize = 8;

/// MLX's own product serves the few rows of a generation step.
pub fn quantized_linear(call: &Call<'_>) -> Outcome {
    let (x, quantization) = (call.input(0), group_size_and_bits(call)?);
    let [words, scales, biases] = [call.input(1), call.input(2), call.input(3)];
    let rows = x.size() / x.dim(-1).max(1) as usize;
    let product = if rows < MANY_ROWS && !call.recording {
        let [scales, biases] = [scales.as_dtype(x.dtype())?, biases.as_dtype(x.dtype())?];
        ops::quantized_matmul(x, words, scales, &biases, true, quantization.0, quantization.1)?
    } else {
        fused::linear(x, &stop_gradient(dequantized([words, scales, biases], quantization)?)?)?
    };
    Ok(call.given(4).map_or(Ok(product.clone()), |bias| product.add(bias))?)
}
