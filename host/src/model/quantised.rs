//! Quantised parameters: their tensors, and the arrays that files have in their place.

use mdt_plugin_api::half::slice::HalfFloatSliceExt;
use mdt_plugin_api::half::{bf16, f16};
use mdt_plugin_api::{Dtype, HostView, ParameterSpec, Result, Tensor, TensorType};

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

/// The elements of a tensor in host memory: borrowed where the device shares its own.
enum OnHost<'a> {
    View(HostView<'a>),
    Copy(Vec<u8>),
}

/// An array as files have it: of a part of a quantised weight, or of one of the tensors that it is stacked from.
struct Stored<'a> {
    name: String,
    shape: Vec<usize>,
    dtype: Dtype,
    bytes: &'a [u8],
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
        let parts = weights.iter().flat_map(|weight| &weight.parts);
        let on_host = parts.map(OnHost::of).collect::<Result<Vec<_>>>()?;
        let mut stored = Vec::new();
        for (weight, on_host) in weights.iter().zip(on_host.chunks_exact(3)) {
            weight.stored(on_host, &mut stored)?;
        }
        let arrays =
            stored.iter().map(|Stored { name, shape, dtype, bytes }| TypedArray { name, shape, dtype: *dtype, bytes });
        body(&arrays.collect::<Vec<_>>())
    }

    /// The arrays of this weight, of its parts in host memory.
    fn stored<'a>(&self, on_host: &'a [OnHost<'_>], all: &mut Vec<Stored<'a>>) -> Result<()> {
        let stacked_from = self.spec.stacked_from.as_slice();
        let names = if stacked_from.is_empty() { std::slice::from_ref(&self.spec.name) } else { stacked_from };
        for ((tensor, on_host), part) in self.parts.iter().zip(on_host).zip(["weight", "scales", "biases"]) {
            let TensorType { shape, dtype } = tensor.tensor_type()?;
            let (shape, bytes) = (if stacked_from.is_empty() { &shape } else { &shape[1..] }, on_host.bytes()?);
            for (name, bytes) in names.iter().zip(bytes.chunks((bytes.len() / names.len()).max(1))) {
                let name = match name.strip_suffix(".weight") {
                    Some(layer) => format!("{layer}.{part}"),
                    None if part == "weight" => name.clone(),
                    None => format!("{name}.{part}"),
                };
                all.push(Stored { name, shape: shape.to_vec(), dtype, bytes });
            }
        }
        Ok(())
    }
}

impl<'a> OnHost<'a> {
    fn of(tensor: &'a Tensor) -> Result<Self> {
        if tensor.compute().device().unified_memory {
            let view = Self::View(tensor.host_view()?);
            // A result of operations may have its elements in another order than that of rows.
            if view.bytes().is_ok() {
                return Ok(view);
            }
        }
        let TensorType { shape, dtype } = tensor.tensor_type()?;
        let mut bytes = vec![0; shape.iter().product::<usize>() * dtype.size()];
        staging::read_as(dtype, tensor, &mut bytes)?;
        Ok(Self::Copy(bytes))
    }

    fn bytes(&self) -> Result<&[u8]> {
        match self {
            Self::Copy(bytes) => Ok(bytes),
            Self::View(view) => match view.dtype() {
                Dtype::F16 => Ok(bytemuck::cast_slice(view.as_slice::<f16>()?.reinterpret_cast())),
                Dtype::BF16 => Ok(bytemuck::cast_slice(view.as_slice::<bf16>()?.reinterpret_cast())),
                Dtype::F32 => Ok(bytemuck::cast_slice(view.as_slice::<f32>()?)),
                _ => Ok(bytemuck::cast_slice(view.as_slice::<u32>()?)),
            },
        }
    }
}
