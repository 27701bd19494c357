//! Which types operations give of which inputs: every check of shapes and types, once.

use super::definition::Definition;
use super::{Attribute, Attributes};
use crate::{Error, Result, TensorType};

/// The types of an operation's results.
pub(super) type Infer = fn(&Call<'_>) -> Result<Vec<TensorType>>;

/// Inputs and attributes whose number and names have been checked.
pub(super) struct Call<'a> {
    pub(super) definition: &'static Definition,
    pub(super) inputs: &'a [Option<&'a TensorType>],
    pub(super) attributes: Attributes<'a>,
}

pub(super) fn infer(
    _definition: &Definition,
    _inputs: &[Option<&TensorType>],
    _attributes: &[Attribute<'_>],
) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn along_axis(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn arange(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn argmax(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn argsort(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn arithmetic(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn attention(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn broadcast_to(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn cast(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn comparison(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn concatenate(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn cross_entropy(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn cumulative_sum(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn dequantize(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn embedding(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn extremum(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn full(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn gather_linear(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn linear(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn logical_not(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn matmul(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn norm(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn quantize(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn quantized_linear(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn random(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn random_categorical(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn real_along_axis(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn real_arithmetic(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn real_reduction(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn real_same(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn reshape(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn rope(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn same(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn scatter(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn select(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn slice(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn slice_update(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn sum(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn swiglu(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn take(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn take_along_axis(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn token_losses(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn top_k(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}

pub(super) fn transpose(_call: &Call<'_>) -> Result<Vec<TensorType>> {
    Err(Error::plugin("not yet"))
}
