//! Operations that are composed of others: their definition, their gradient, and what a device uses that has no faster way.
//!
//! A composition computes in float32 what it gets in half precision, and rounds its result once. No gradient is NaN where the
//! table says 0: what does not matter is selected away before it is computed with, since 0 · Inf is NaN.

mod attention;
mod elementwise;
mod layers;
mod losses;
mod quantization;
mod reduce;
#[cfg(test)]
mod tests;

use std::rc::Rc;

use super::infer::Inputs;
use super::promotion::real;
use super::{Attribute, Attributes, Definition, OpKind, Value};
use crate::{Compute, Dtype, Error, Handle, Result, Tensor, TensorType};

/// Applies an operation: as the device does, or composed of others where the device says that it does not have it.
#[inline(always)]
pub(crate) fn apply(
    compute: &Rc<dyn Compute>,
    op: OpKind,
    inputs: &[Handle],
    attributes: &[Attribute<'_>],
    results: &mut [Handle],
) -> Result<()> {
    match compute.op(op, inputs, attributes, results) {
        Ok(()) => Ok(()),
        Err(error) => otherwise(error, compute, op, inputs, attributes, results),
    }
}

/// What is not as the device does it, or the error if it had to be.
#[cold]
fn otherwise(
    error: Error,
    compute: &Rc<dyn Compute>,
    op: OpKind,
    inputs: &[Handle],
    attributes: &[Attribute<'_>],
    results: &mut [Handle],
) -> Result<()> {
    let names: Vec<&str> = attributes.iter().map(|attribute| attribute.name).collect();
    if !is_composed(op, &names) {
        return Err(error);
    }
    let given = attributes.iter().find_map(|attribute| match attribute.value {
        Value::Dtype(dtype) => Some(dtype),
        _ => None,
    });
    let dtype = match inputs.first() {
        Some(&first) => compute.tensor_type(first).map(|of| of.dtype).ok(),
        None => given,
    };
    match dtype {
        Some(dtype) if !compute.supports(op, &names, dtype) => compose(compute, op, inputs, attributes, results),
        _ => Err(error),
    }
}

/// Whether [`compose`] knows this operation with these attributes.
pub(crate) fn is_composed(op: OpKind, attributes: &[&str]) -> bool {
    op.definition().is_some_and(|definition| {
        let is_known = |name: &&str| definition.attributes.iter().any(|spec| spec.name == *name);
        let is_plain = !attributes.iter().any(|name| matches!(*name, "left" | "right" | "operands"));
        attributes.iter().all(is_known) && !(definition.is_primitive && is_plain)
    })
}

/// Whether a device can be asked for an operation that it may not have: it has it, or it is composed.
pub(crate) fn is_available(compute: &dyn Compute, op: OpKind, attributes: &[&str], dtype: Dtype) -> bool {
    compute.supports(op, attributes, dtype)
        || is_composed(op, attributes) && op.definition().is_some_and(|definition| definition.types.contains(dtype))
}

/// Computes an operation by others, as its definition says, for a device that does not have it: a composed operation, or one
/// with attributes that the device does not know (`left`, `right` and `operands`). Called on the compute thread.
///
/// # Errors
/// Those of the operation, which name it; there is no composition of a primitive in its plain form.
pub fn compose(
    compute: &Rc<dyn Compute>,
    op: OpKind,
    inputs: &[Handle],
    attributes: &[Attribute<'_>],
    results: &mut [Handle],
) -> Result<()> {
    let unknown = || Error::plugin(format!("operation number {} is unknown", op.0));
    let definition = op.definition().ok_or_else(unknown)?;
    let type_of = |&input: &Handle| if input == 0 { Ok(None) } else { compute.tensor_type(input).map(Some) };
    let types = inputs.iter().map(type_of).collect::<Result<Vec<_>>>()?;
    let types: Vec<Option<&TensorType>> = types.iter().map(Option::as_ref).collect();
    let result_types = definition.infer(&types, attributes)?;
    if results.len() != result_types.len() {
        let (wanted, gives) = (results.len(), result_types.len());
        return Err(Error::plugin(format!("operation {}: has {gives} results, not {wanted}", definition.name)));
    }
    let call = Call { compute, definition, inputs, types: &types, attributes, results: &result_types };
    let handles = call.compose().map_err(|error| {
        let what = format!("operation {} on {}, composed of others", definition.name, Inputs(&types));
        let named = Error::new(error.code(), what).caused_by(&error);
        let named = error.context().iter().fold(named, |named, (key, value)| named.with(key, value));
        match error.component() {
            Some(component) => named.in_component(component),
            None => named,
        }
    })?;
    results.copy_from_slice(&handles);
    Ok(())
}

/// One application of a composed operation; inputs and attributes have been checked.
struct Call<'a> {
    compute: &'a Rc<dyn Compute>,
    definition: &'static Definition,
    inputs: &'a [Handle],
    types: &'a [Option<&'a TensorType>],
    attributes: &'a [Attribute<'a>],
    results: &'a [TensorType],
}

impl<'a> Call<'a> {
    /// Handles of the results, of the types that they should have.
    fn compose(&self) -> Result<Vec<Handle>> {
        let results = self.tensors()?;
        let typed = results.into_iter().zip(self.results).map(|(result, of)| to(result, of.dtype)?.into_handle());
        typed.collect()
    }

    fn tensors(&self) -> Result<Vec<Tensor>> {
        let one = match self.definition.op {
            OpKind::QUANTIZE => return quantization::quantize(self),
            OpKind::RSQRT => 1.0 / &self.real(0)?.sqrt()?,
            OpKind::SQUARE => elementwise::square(&self.wide(0)?),
            OpKind::SIGMOID => elementwise::sigmoid(&self.real(0)?),
            OpKind::SILU => elementwise::silu(&self.real(0)?),
            OpKind::GELU => elementwise::gelu(self),
            OpKind::SOFTPLUS => elementwise::softplus(&self.real(0)?),
            OpKind::SIGN => elementwise::sign(&self.input(0)?),
            OpKind::NOT_EQUAL => self.forwarded(OpKind::EQUAL)?.logical_not(),
            OpKind::GREATER_EQUAL => self.forwarded(OpKind::GREATER)?.logical_or(&self.forwarded(OpKind::EQUAL)?),
            OpKind::LESS_EQUAL => self.forwarded(OpKind::LESS)?.logical_or(&self.forwarded(OpKind::EQUAL)?),
            OpKind::LOGICAL_OR => elementwise::logical_or(&self.input(0)?, &self.input(1)?),
            OpKind::DROPOUT => elementwise::dropout(self),
            OpKind::RANDOM_NORMAL => elementwise::random_normal(self),
            OpKind::MEAN => reduce::mean(self),
            OpKind::ARGMAX => reduce::argmax(self),
            OpKind::LOG_SUM_EXP => reduce::log_sum_exp(self),
            OpKind::SOFTMAX => reduce::softmax(self),
            OpKind::LOG_SOFTMAX => reduce::log_softmax(self),
            OpKind::TOP_K => reduce::top_k(self),
            OpKind::SORT => reduce::sort(self),
            OpKind::RANDOM_CATEGORICAL => reduce::random_categorical(self),
            OpKind::MATMUL => layers::matmul(self),
            OpKind::LINEAR => layers::linear(&self.operand(0)?, &self.operand(1)?, self.wide_or_none(2)?.as_ref()),
            OpKind::GATHER_LINEAR => layers::gather_linear(self),
            OpKind::RMS_NORM => layers::rms_norm(self),
            OpKind::LAYER_NORM => layers::layer_norm(self),
            OpKind::SWIGLU => &elementwise::silu(&self.wide(0)?)? * &self.wide(1)?,
            OpKind::EMBEDDING => layers::rows(&self.input(0)?, &self.input(1)?),
            OpKind::ROPE => layers::rope(self),
            OpKind::ATTENTION => attention::attention(self),
            OpKind::CROSS_ENTROPY => losses::cross_entropy(&self.wide(0)?, &self.input(1)?),
            OpKind::TOKEN_LOSSES => losses::token_losses(self),
            OpKind::DEQUANTIZE => quantization::dequantize(self, [0, 1, 2]),
            OpKind::QUANTIZED_LINEAR => quantization::quantized_linear(self),
            _ => self.with_number(),
        };
        Ok(vec![one?])
    }

    /// An operand that stands in an attribute, as a tensor.
    fn with_number(&self) -> Result<Tensor> {
        let [Attribute { name, value: Value::Float(number) }] = *self.attributes else {
            return Err(Error::plugin("is a primitive: it has no composition"));
        };
        let x = self.input(0)?;
        let number = x.number(number)?;
        let operands = if name == "left" { [&number, &x] } else { [&x, &number] };
        Tensor::op(self.definition.op, &operands, &[])
    }

    /// Another operation of the same inputs and attributes.
    fn forwarded(&self, op: OpKind) -> Result<Tensor> {
        let inputs: Vec<Tensor> = (0..self.inputs.len()).map(|place| self.input(place)).collect::<Result<_>>()?;
        Tensor::op(op, &inputs.iter().collect::<Vec<_>>(), self.attributes)
    }

    /// An input, through which a gradient flows where the table says so.
    fn input(&self, place: usize) -> Result<Tensor> {
        let x = Tensor::borrowed(self.compute, self.inputs[place]);
        let flows = self.definition.differentiable >> place.min(7) & 1 == 1;
        if flows || !self.type_of(place)?.dtype.is_float() { Ok(x) } else { x.stop_gradient() }
    }

    /// An input, in float32 if it is half precision.
    fn wide(&self, place: usize) -> Result<Tensor> {
        to(self.input(place)?, wide(self.type_of(place)?.dtype))
    }

    /// An operand of a product: an input in float32, its elements those of the type in attribute `operands`, if there is one.
    fn operand(&self, place: usize) -> Result<Tensor> {
        let x = self.wide(place)?;
        match self.attributes().optional::<Dtype>("operands")? {
            Some(dtype) if dtype != self.type_of(place)?.dtype => layers::rounded(&x, dtype),
            _ => Ok(x),
        }
    }

    /// The same of an input that may be left out.
    fn wide_or_none(&self, place: usize) -> Result<Option<Tensor>> {
        self.has(place).then(|| self.wide(place)).transpose()
    }

    /// An input, in the floating-point type in which it is computed with.
    fn real(&self, place: usize) -> Result<Tensor> {
        to(self.input(place)?, wide(real(self.type_of(place)?.dtype)))
    }

    fn has(&self, place: usize) -> bool {
        self.types.get(place).is_some_and(Option::is_some)
    }

    fn type_of(&self, place: usize) -> Result<&'a TensorType> {
        self.types[place].ok_or_else(|| Error::plugin(format!("input {place} cannot be left out")))
    }

    fn shape(&self, place: usize) -> Result<&'a [usize]> {
        Ok(&self.type_of(place)?.shape)
    }

    /// The number of an axis in attribute `axis`, counted from 0.
    fn axis(&self) -> Result<usize> {
        let axis: i64 = self.attributes().required("axis")?;
        Ok(if axis < 0 { axis + self.shape(0)?.len() as i64 } else { axis } as usize)
    }

    fn attributes(&self) -> Attributes<'a> {
        Attributes::new(self.attributes)
    }

    /// The key of random numbers in attribute `key`.
    fn key(&self) -> Result<u64> {
        Ok(self.attributes().required::<i64>("key")?.cast_unsigned())
    }
}

/// The type in which elements of this one are computed with.
pub(super) fn wide(dtype: Dtype) -> Dtype {
    if matches!(dtype, Dtype::F16 | Dtype::BF16) { Dtype::F32 } else { dtype }
}

/// Converts where it must.
pub(super) fn to(x: Tensor, dtype: Dtype) -> Result<Tensor> {
    if x.tensor_type()?.dtype == dtype { Ok(x) } else { x.cast(dtype) }
}

/// Lengths as attributes have them.
pub(super) fn ints(lengths: &[usize]) -> Vec<i64> {
    lengths.iter().map(|&length| length as i64).collect()
}

/// The first `count` elements along an axis.
fn first(x: &Tensor, axis: usize, count: usize) -> Result<Tensor> {
    let mut stop = ints(&x.shape()?);
    stop[axis] = count as i64;
    x.slice(&vec![0; stop.len()], &stop)
}
