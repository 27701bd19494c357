//! One application of an operation, whose inputs and attributes have been checked.

use mdt_plugin_api::op::{Attributes, FromValue};
use mdt_plugin_api::{Attribute, Dtype, TensorType};
use mlx_rs::{Array, Dtype as MlxDtype, ops};

use super::{Outcome, constant};
use crate::dtype;
use crate::fault::Fault;

/// Inputs, as [`super::Converted`] has prepared them, attributes, and the types of the results.
pub struct Call<'a> {
    inputs: &'a [Option<&'a Array>],
    attributes: Attributes<'a>,
    types: &'a [TensorType],
    /// The first input as it was given.
    first: Option<&'a Array>,
    /// Whether a gradient may be asked for.
    pub recording: bool,
}

impl<'a> Call<'a> {
    pub fn new(
        inputs: &'a [Option<&'a Array>],
        attributes: &'a [Attribute<'a>],
        types: &'a [TensorType],
        first: Option<&'a Array>,
        recording: bool,
    ) -> Self {
        Self { inputs, attributes: Attributes::new(attributes), types, first, recording }
    }

    /// An input that the operation always has.
    pub fn input(&self, place: usize) -> &'a Array {
        self.inputs[place].expect("the check before has found it")
    }

    /// An input that may be left out.
    pub fn given(&self, place: usize) -> Option<&'a Array> {
        self.inputs.get(place).copied().flatten()
    }

    /// All inputs that are given.
    pub fn inputs(&self) -> impl Iterator<Item = &'a Array> {
        self.inputs.iter().copied().flatten()
    }

    /// The type of the only result.
    pub fn result(&self) -> &'a TensorType {
        &self.types[0]
    }

    /// The shape of the only result, as MLX takes it.
    pub fn result_shape(&self) -> Result<Vec<i32>, Fault> {
        mlx_shape(&self.types[0].shape)
    }

    pub fn optional<T: FromValue<'a>>(&self, name: &str) -> Result<Option<T>, Fault> {
        Ok(self.attributes.optional(name)?)
    }

    pub fn required<T: FromValue<'a>>(&self, name: &str) -> Result<T, Fault> {
        Ok(self.attributes.required(name)?)
    }

    /// The axis in attribute `axis`, counted from 0.
    pub fn axis(&self) -> Result<i32, Fault> {
        let axis: i64 = self.required("axis")?;
        let rank = self.input(0).ndim() as i64;
        Ok((if axis < 0 { axis + rank } else { axis }) as i32)
    }

    /// A required list of integers, as MLX takes them.
    pub fn ints(&self, name: &str) -> Result<Vec<i32>, Fault> {
        self.required::<&[i64]>(name)?.iter().map(|&value| narrow(name, value)).collect()
    }

    /// A function of two inputs, or of one and the number in attribute `left` or `right`.
    pub fn binary(&self, apply: impl FnOnce(&Array, &Array) -> mlx_rs::error::Result<Array>) -> Outcome {
        let x = self.input(0);
        if let Some(right) = self.given(1) {
            return Ok(apply(x, right)?);
        }
        match self.optional::<f64>("left")? {
            Some(left) => Ok(apply(&self.number(left)?, x)?),
            None => Ok(apply(x, &self.number(self.required("right")?)?)?),
        }
    }

    /// A number of the first input's type, converted like that.
    fn number(&self, value: f64) -> Outcome {
        let (given, prepared) = (self.first.unwrap_or(self.input(0)).dtype(), self.input(0).dtype());
        let number = constant::scalar(value, given)?;
        Ok(if given == prepared { number } else { number.as_dtype(prepared)? })
    }
}

/// MLX counts in 32 bits.
pub fn narrow(name: &str, value: i64) -> Result<i32, Fault> {
    i32::try_from(value)
        .map_err(|_| Fault::new(format!("attribute {name:?}: {value} is out of MLX's range of 32 bits")))
}

pub fn mlx_shape(shape: &[usize]) -> Result<Vec<i32>, Fault> {
    let length = |&length: &usize| {
        i32::try_from(length).map_err(|_| Fault::new(format!("{length} is out of MLX's range of 32 bits")))
    };
    shape.iter().map(length).collect()
}

pub fn mlx_type(dtype: Dtype) -> Result<MlxDtype, Fault> {
    Ok(dtype::to_mlx(dtype)?)
}

pub fn boundary_type(array: &Array) -> Result<Dtype, Fault> {
    Ok(dtype::from_mlx(array.dtype())?)
}

/// Zeros of this shape and type.
pub fn zeros(result: &TensorType) -> Outcome {
    Ok(ops::zeros_dtype(&mlx_shape(&result.shape)?, mlx_type(result.dtype)?)?)
}
