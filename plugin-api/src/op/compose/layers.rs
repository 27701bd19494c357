//! Layers of transformers.

use super::{Call, ints, to, wide};
use crate::{Dtype, Error, OpKind, Result, Tensor};

/// The elements of `x` rounded to a type, with the gradient of `x` itself: that of a cast would be rounded.
pub fn rounded(x: &Tensor, dtype: Dtype) -> Result<Tensor> {
    let nearest = x.stop_gradient()?.cast(dtype)?.cast(x.tensor_type()?.dtype)?;
    // 0, with a gradient; what is not finite has no difference with itself.
    let finite = x.multiply(0.0)?.equal(0.0)?.select(x, &x.number(0.0)?)?;
    &nearest + &(&finite - &finite.stop_gradient()?)?
}

/// A product of rounded operands; the plain one is a primitive.
pub fn matmul(call: &Call<'_>) -> Result<Tensor> {
    if call.attributes().optional::<Dtype>("operands")?.is_none() {
        return Err(Error::plugin("is a primitive: it has no composition"));
    }
    Tensor::op(OpKind::MATMUL, &[&call.operand(0)?, &call.operand(1)?], &[])
}

/// `x · wᵀ (+ bias)` of x `[.., in]`, as one product of two matrices.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (mut shape, matrix) = (x.shape()?, weight.shape()?);
    let (out, inner) = (matrix[0], matrix[1]);
    let rows: usize = shape[..shape.len() - 1].iter().product();
    *shape.last_mut().expect("x has an axis") = out;
    let product = x.reshape(&ints(&[rows, inner]))?.matmul(&weight.transpose(&[1, 0])?)?.reshape(&ints(&shape))?;
    plus(product, bias)
}

fn plus(product: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    match bias {
        Some(bias) => &product + bias,
        None => Ok(product),
    }
}

/// Rows of a table; an index from the end is moved to where it is an error.
pub fn rows(table: &Tensor, indices: &Tensor) -> Result<Tensor> {
    let outside = indices.number(table.shape()?[0] as f64)?;
    table.take(&indices.less(0.0)?.select(&outside, indices)?, 0)
}

/// The matrix of each row, times the row.
pub fn gather_linear(call: &Call<'_>) -> Result<Tensor> {
    let (x, weight, indices) = (call.operand(0)?, call.input(1)?, call.input(2)?);
    let x_shape = ints(call.shape(0)?);
    let matrices = to(rows(&weight, &indices)?, wide(weight.tensor_type()?.dtype))?;
    let matrices = match call.attributes().optional::<Dtype>("operands")? {
        Some(dtype) => rounded(&matrices, dtype)?,
        None => matrices,
    };
    matrices.matmul(&x.reshape(&[x_shape[0], x_shape[1], x_shape[2], 1])?)?.reshape(&ints(&call.results[0].shape))
}

pub fn rms_norm(call: &Call<'_>) -> Result<Tensor> {
    let (x, weight) = (call.wide(0)?, call.wide(1)?);
    &normalised(call, &x)? * &weight
}

pub fn layer_norm(call: &Call<'_>) -> Result<Tensor> {
    let (x, weight) = (call.wide(0)?, call.wide(1)?);
    let product = (&normalised(call, &(&x - &x.mean_axes(&[-1], true)?)?)? * &weight)?;
    plus(product, call.wide_or_none(2)?.as_ref())
}

/// `x / √(mean(x²) + eps)` over the last axis.
fn normalised(call: &Call<'_>, x: &Tensor) -> Result<Tensor> {
    let eps = call.attributes().required::<f64>("eps")?;
    x / &(x * x)?.mean_axes(&[-1], true)?.plus(eps)?.sqrt()?
}

pub fn rope(call: &Call<'_>) -> Result<Tensor> {
    let (x, frequencies) = (call.wide(0)?, call.input(1)?);
    let &[batch, heads, tokens, width] = &ints(call.shape(0)?)[..] else { unreachable!("checked: x has four axes") };
    let positions = if call.has(2) {
        call.input(2)?.reshape(&[batch, 1, tokens, 1])?
    } else {
        let offset = call.attributes().optional::<i64>("offset")?.unwrap_or(0);
        Tensor::arange(call.compute, tokens, Dtype::I64)?.plus(offset as f64)?.reshape(&[1, 1, tokens, 1])?
    };
    let angles = to((&positions.cast(Dtype::F32)? * &frequencies)?, x.tensor_type()?.dtype)?;
    let scale = call.attributes().optional::<f64>("scale")?.unwrap_or(1.0);
    let (cos, sin) = (angles.cos()?.multiply(scale)?, angles.sin()?.multiply(scale)?);
    let left = x.slice(&[0; 4], &[batch, heads, tokens, width / 2])?;
    let right = x.slice(&[0, 0, 0, width / 2], &[batch, heads, tokens, width])?;
    let rotated_left = (&(&left * &cos)? - &(&right * &sin)?)?;
    let rotated_right = (&(&right * &cos)? + &(&left * &sin)?)?;
    Tensor::concatenate(&[&rotated_left, &rotated_right], 3)
}
