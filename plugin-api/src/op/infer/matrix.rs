//! Products with matrices, and quantised matrices.

use super::{Call, Outcome, broadcast, common, common_float, expect, one, refuse};
use crate::op::promotion::real;
use crate::{Dtype, Result, TensorType};

/// The type of a product that is promoted to `dtype`: with the attribute `operands`, that of the first input.
pub(super) fn of_product(call: &Call<'_>, dtype: Dtype) -> Result<Dtype> {
    match call.attributes.optional::<Dtype>("operands")? {
        None => Ok(dtype),
        Some(Dtype::F16 | Dtype::BF16) => {
            let (first, second) = (call.input(0)?, call.input(1)?);
            // Packed words are of no floating-point type.
            let typed = [first, second].into_iter().filter(|input| input.dtype != Dtype::U32);
            common_float(typed).map(|_| first.dtype)
        }
        Some(other) => refuse(format!("attribute \"operands\" is {other}; it knows float16 and bfloat16")),
    }
}

pub fn matmul(call: &Call<'_>) -> Outcome {
    let (a, b) = (call.input(0)?, call.input(1)?);
    let dtype = of_product(call, real(call.typed(common(a.dtype, b.dtype)?)?))?;
    let ([a_batch @ .., rows, inner], [b_batch @ .., other, columns]) = (&a.shape[..], &b.shape[..]) else {
        return refuse("both inputs have two axes at least");
    };
    if inner != other {
        return refuse(format!("rows of {inner} elements do not go with columns of {other}"));
    }
    let mut shape = broadcast(a_batch, b_batch)?;
    shape.extend([*rows, *columns]);
    one(shape, dtype)
}

pub fn linear(call: &Call<'_>) -> Outcome {
    let (x, weight, bias) = (call.input(0)?, call.input(1)?, call.given(2));
    let expected = "x [.., in], a weight [out, in] and, if any, a bias [out]";
    let ([rows @ .., inner], &[out, columns]) = (&x.shape[..], &weight.shape[..]) else {
        return refuse(format!("expected {expected}"));
    };
    expect(*inner == columns && bias.is_none_or(|bias| bias.shape == [out]), expected)?;
    one([rows, &[out]].concat(), of_product(call, common_float([x, weight].into_iter().chain(bias))?)?)
}

pub fn gather_linear(call: &Call<'_>) -> Outcome {
    let (x, weight, indices) = (call.input(0)?, call.input(1)?, call.input(2)?);
    let expected = "x [N, 1 or K, in], a weight [E, out, in] and int32 indices [N, K]";
    let (&[rows, each, inner], &[_, out, columns], &[tokens, experts]) =
        (&x.shape[..], &weight.shape[..], &indices.shape[..])
    else {
        return refuse(format!("expected {expected}"));
    };
    let fits = inner == columns && rows == tokens && (each == 1 || each == experts) && indices.dtype == Dtype::I32;
    expect(fits, expected)?;
    one(vec![tokens, experts, out], of_product(call, common_float([x, weight])?)?)
}

/// Elements of a group, and bits of an element.
fn quantization(call: &Call<'_>) -> Result<(usize, usize)> {
    let (group_size, bits) = (call.attributes.required::<i64>("group_size")?, call.attributes.required::<i64>("bits")?);
    if !matches!(group_size, 32 | 64 | 128) {
        return refuse(format!("attribute \"group_size\" is {group_size}; it knows 32, 64 and 128"));
    }
    if !matches!(bits, 2..=6 | 8) {
        return refuse(format!("attribute \"bits\" is {bits}; it knows 2, 3, 4, 5, 6 and 8"));
    }
    Ok((group_size as usize, bits as usize))
}

pub fn quantize(call: &Call<'_>) -> Outcome {
    let (group_size, bits) = quantization(call)?;
    let weight = call.first()?;
    let Some((&inner, rows)) = weight.shape.split_last().filter(|&(&inner, _)| inner % group_size == 0) else {
        return refuse(format!("the last axis does not divide into groups of {group_size} elements"));
    };
    let words = one([rows, &[inner / 32 * bits]].concat(), Dtype::U32)?;
    let of_groups = one([rows, &[inner / group_size]].concat(), weight.dtype)?;
    Ok([words, of_groups.clone(), of_groups].concat())
}

/// Shape and type of the weights that these words, scales and biases are.
fn dequantized(call: &Call<'_>, [words, scales, biases]: [&TensorType; 3]) -> Result<TensorType> {
    let (group_size, bits) = quantization(call)?;
    let expected = "words [.., in · bits / 32] uint32, and scales and biases [.., in / group_size] of one type";
    let ([rows @ .., packed], [scale_rows @ .., groups]) = (&words.shape[..], &scales.shape[..]) else {
        return refuse(format!("expected {expected}"));
    };
    let inner = groups.checked_mul(group_size);
    let fits = words.dtype == Dtype::U32
        && rows == scale_rows
        && scales == biases
        && inner.is_some_and(|inner| inner / 32 * bits == *packed);
    expect(fits, expected)?;
    let dtype = common_float([scales])?;
    Ok(TensorType { shape: [rows, &[inner.unwrap_or(0)]].concat(), dtype })
}

pub fn dequantize(call: &Call<'_>) -> Outcome {
    let weight = dequantized(call, [call.input(0)?, call.input(1)?, call.input(2)?])?;
    one(weight.shape, weight.dtype)
}

pub fn quantized_linear(call: &Call<'_>) -> Outcome {
    let (x, bias) = (call.input(0)?, call.given(4));
    let weight = dequantized(call, [call.input(1)?, call.input(2)?, call.input(3)?])?;
    let expected = "x [.., in], quantised weights [out, in] and, if any, a bias [out]";
    let ([rows @ .., inner], &[out, columns]) = (&x.shape[..], &weight.shape[..]) else {
        return refuse(format!("expected {expected}"));
    };
    expect(*inner == columns && bias.is_none_or(|bias| bias.shape == [out]), expected)?;
    one([rows, &[out]].concat(), of_product(call, common_float([x, &weight].into_iter().chain(bias))?)?)
}
