//! Affine quantisation, and words in which numbers stand bit after bit.

use super::layers::{linear, rounded};
use super::{Call, ints};
use crate::{Compute, Dtype, HostArray, Result, Tensor};
use std::rc::Rc;

/// Numbers are cut into pieces, the largest ones of which both a number and a word have a whole count. A piece's value is a
/// digit to the base `2^bits`.
struct Pieces {
    bits: usize,
    of_number: usize,
    of_word: usize,
}

impl Pieces {
    fn of(bits: usize) -> Self {
        let piece = 1 << bits.trailing_zeros();
        Self { bits: piece, of_number: bits / piece, of_word: 32 / piece }
    }

    /// The place values of so many digits, uint32.
    fn place_values(&self, compute: &Rc<dyn Compute>, count: usize) -> Result<Tensor> {
        let values: Vec<u32> = (0..count).map(|place| 1 << (place * self.bits)).collect();
        Tensor::from_host(compute, &HostArray::new(&[count], &values)?)
    }

    /// uint32 `[.., N]` to their digits `[.., N, count]`, the lowest one first.
    fn digits(&self, x: &Tensor, count: usize) -> Result<Tensor> {
        let shifted = x.reshape(&[&ints(&x.shape()?)[..], &[1]].concat())?;
        shifted.floor_divide(&self.place_values(x.compute(), count)?)?.remainder(f64::from(1u32 << self.bits))
    }

    /// Digits `[.., N · count]` to uint32 `[.., N]`.
    fn joined(&self, digits: &Tensor, rows: &[usize], count: usize) -> Result<Tensor> {
        let all: usize = digits.shape()?[rows.len()..].iter().product();
        let digits = digits.reshape(&ints(&[rows, &[all / count, count]].concat()))?;
        (&digits * &self.place_values(digits.compute(), count)?)?.sum_axis(-1)
    }
}

/// The attributes `group_size` and `bits`.
fn quantization(call: &Call<'_>) -> Result<(usize, usize)> {
    let attributes = call.attributes();
    Ok((attributes.required::<i64>("group_size")? as usize, attributes.required::<i64>("bits")? as usize))
}

pub fn quantize(call: &Call<'_>) -> Result<Vec<Tensor>> {
    let ((group_size, bits), weight) = (quantization(call)?, call.wide(0)?);
    let most = f64::from((1u32 << bits) - 1);
    let shape = call.shape(0)?;
    let (rows, groups) = (&shape[..shape.len() - 1], shape[shape.len() - 1] / group_size);
    let grouped = weight.reshape(&ints(&[rows, &[groups, group_size]].concat()))?;
    if shape.contains(&0) {
        let words = grouped.cast(Dtype::U32)?.reshape(&ints(&call.results[0].shape))?;
        let scales = weight.reshape(&ints(&call.results[1].shape))?;
        return Ok(vec![words, scales.try_clone()?, scales]);
    }

    let (least, largest) = (grouped.min_axes(&[-1], true)?, grouped.max_axes(&[-1], true)?);
    let step = (&(&largest - &least)? / most)?.maximum(1e-7)?;
    let from_least = least.abs()?.greater(&largest.abs()?)?;
    let step = from_least.select(&step, &step.negative()?)?;
    let edge = from_least.select(&least, &largest)?;
    // The edge is a whole number of steps, so that 0 is exact, or as good as 0 itself.
    let steps = (&edge / &step)?.round()?;
    let is_zero = steps.equal(0.0)?;
    let scale = is_zero.select(&step, &(&edge / &steps)?)?;
    let bias = is_zero.select(&edge.number(0.0)?, &edge)?;

    let numbers = (&(&grouped - &bias)? / &scale)?.round()?.maximum(0.0)?.minimum(most)?.cast(Dtype::U32)?;
    let pieces = Pieces::of(bits);
    let words = pieces.joined(&pieces.digits(&numbers, pieces.of_number)?, rows, pieces.of_word)?;
    let of_groups = ints(&[rows, &[groups]].concat());
    Ok(vec![words, scale.reshape(&of_groups)?, bias.reshape(&of_groups)?])
}

/// Of words, scales and biases at these places among the inputs.
pub fn dequantize(call: &Call<'_>, [words, scales, biases]: [usize; 3]) -> Result<Tensor> {
    let (group_size, bits) = quantization(call)?;
    let of_groups = call.shape(scales)?;
    let (rows, groups) = (&of_groups[..of_groups.len() - 1], of_groups[of_groups.len() - 1]);
    let pieces = Pieces::of(bits);
    let numbers = pieces.joined(&pieces.digits(&call.input(words)?, pieces.of_word)?, rows, pieces.of_number)?;
    let (scales, biases) = (call.wide(scales)?, call.wide(biases)?);
    let grouped = ints(&[rows, &[groups, group_size]].concat());
    let column = ints(&[rows, &[groups, 1]].concat());
    let numbers = numbers.cast(scales.tensor_type()?.dtype)?.reshape(&grouped)?;
    let weight = (&(&numbers * &scales.reshape(&column)?)? + &biases.reshape(&column)?)?;
    weight.reshape(&ints(&[rows, &[groups * group_size]].concat()))
}

pub fn quantized_linear(call: &Call<'_>) -> Result<Tensor> {
    let weight = dequantize(call, [1, 2, 3])?;
    let weight = match call.attributes().optional::<Dtype>("operands")? {
        Some(dtype) => rounded(&weight, dtype)?,
        None => weight,
    };
    linear(&call.operand(0)?, &weight, call.wide_or_none(4)?.as_ref())
}
