//! The gradient on the device: its norm, whether it is finite, and clipping, of which only scalars reach the host.

use std::rc::Rc;

use mdt_plugin_api::{Compute, Dtype, Error, ParameterSpec, Result, Tensor};

use crate::staging;

/// Whether all elements of these tensors are finite numbers.
pub(super) fn all_finite(tensors: &[Tensor]) -> Result<bool> {
    // x * 0 is zero for a finite number and NaN for all others, and so is the sum.
    let Some(zero) = tensors.first().map(|tensor| scalar(tensor.compute(), 0.0)) else { return Ok(true) };
    let zero = zero?;
    let sum = total(tensors.iter().map(|tensor| (tensor * &zero)?.sum()))?;
    match sum {
        Some(sum) => Ok(staging::read_number(&sum)? == 0.0),
        None => Ok(true),
    }
}

/// The global norm of these tensors divided by `weight`; not finite where an element is not. Elements are divided by the
/// largest one before they are squared, since squares of f32 may be too large for f32, or too small.
pub(super) fn norm_of_mean(tensors: &[Tensor], weight: f64) -> Result<f64> {
    let Some(first) = tensors.first() else { return Ok(0.0) };
    let mut largest = scalar(first.compute(), f64::from(f32::MIN_POSITIVE))?;
    for tensor in tensors {
        largest = largest.maximum(&tensor.abs()?.max()?)?;
    }
    let squares = tensors.iter().map(|tensor| sum(&(tensor / &largest)?.square()?));
    let squares = total(squares)?.ok_or_else(|| Error::other("there is no gradient"))?;
    Ok(staging::read_number(&largest)? * staging::read_number(&squares)?.sqrt() / weight)
}

/// These tensors multiplied by a factor.
pub(super) fn scaled(tensors: &[Tensor], factor: f32) -> Result<Vec<Tensor>> {
    let Some(first) = tensors.first() else { return Ok(Vec::new()) };
    let factor = scalar(first.compute(), f64::from(factor))?;
    tensors.iter().map(|tensor| tensor * &factor).collect()
}

/// Tensors of the parameters' shapes with these elements, those of each parameter together.
pub(super) fn upload(compute: &Rc<dyn Compute>, specs: &[ParameterSpec], elements: &[&[f32]]) -> Result<Vec<Tensor>> {
    let tensors = specs.iter().zip(elements);
    tensors.map(|(spec, elements)| staging::upload_f32(compute, &spec.shape, elements)).collect()
}

/// The sum of scalars, added in their order.
fn total(scalars: impl Iterator<Item = Result<Tensor>>) -> Result<Option<Tensor>> {
    let mut total: Option<Tensor> = None;
    for scalar in scalars {
        total = Some(match total {
            Some(total) => (&total + &scalar?)?,
            None => scalar?,
        });
    }
    Ok(total)
}

/// The sum of all elements: of each row first, since a single sum of very many f32 loses digits.
fn sum(tensor: &Tensor) -> Result<Tensor> {
    match tensor.shape()?.len() {
        0 | 1 => tensor.sum(),
        _ => tensor.sum_axis(-1)?.sum(),
    }
}

fn scalar(compute: &Rc<dyn Compute>, value: f64) -> Result<Tensor> {
    Tensor::full(compute, &[], value, Dtype::F32)
}
