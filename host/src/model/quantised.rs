//! Quantised parameters: their tensors, and the arrays that files have in their place.

use mdt_plugin_api::{Dtype, ParameterSpec, Result, Tensor, TensorType};

use super::packing::Packing;
use crate::exit::Failure;
use crate::staging;
use crate::storage::TypedArray;

/// A quantised parameter, which is not trained.
pub(super) struct QuantisedWeight {
    pub(super) spec: ParameterSpec,
    /// Words, scales and biases.
    pub(super) parts: [Tensor; 3],
    pub(super) packing: Packing,
}

/// One array in host memory: a part of a quantised weight, or of one of the tensors that it is stacked from.
struct OnHost {
    name: String,
    shape: Vec<usize>,
    dtype: Dtype,
    bytes: Vec<u8>,
}

impl QuantisedWeight {
    /// What has been loaded of a parameter.
    pub(super) fn new(spec: ParameterSpec, parts: [Tensor; 3], packing: Packing) -> Self {
        Self { spec: ParameterSpec { trainable: false, ..spec }, parts, packing }
    }

    /// Words, scales and biases of all these, as files have them, for as long as `body` runs.
    pub(super) fn with_arrays<T>(
        weights: &[Self],
        body: impl FnOnce(&[TypedArray<'_>]) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut arrays = Vec::new();
        for weight in weights {
            weight.read(&mut arrays)?;
        }
        let arrays =
            arrays.iter().map(|OnHost { name, shape, dtype, bytes }| TypedArray { name, shape, dtype: *dtype, bytes });
        body(&arrays.collect::<Vec<_>>())
    }

    fn read(&self, arrays: &mut Vec<OnHost>) -> Result<()> {
        let stacked_from = self.spec.stacked_from.as_slice();
        let names = if stacked_from.is_empty() { std::slice::from_ref(&self.spec.name) } else { stacked_from };
        for (tensor, part) in self.parts.iter().zip(["weight", "scales", "biases"]) {
            let TensorType { shape, dtype } = tensor.tensor_type()?;
            let mut bytes = vec![0; shape.iter().product::<usize>() * dtype.size()];
            staging::read_as(dtype, tensor, &mut bytes)?;
            let shape = if stacked_from.is_empty() { &shape } else { &shape[1..] };
            for (name, bytes) in names.iter().zip(bytes.chunks((bytes.len() / names.len()).max(1))) {
                let name = match name.strip_suffix(".weight") {
                    Some(layer) => format!("{layer}.{part}"),
                    None if part == "weight" => name.clone(),
                    None => format!("{name}.{part}"),
                };
                arrays.push(OnHost { name, shape: shape.to_vec(), dtype, bytes: bytes.to_vec() });
            }
        }
        Ok(())
    }
}
