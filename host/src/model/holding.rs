//! How weights that are not trained are held on the device.

use mdt_plugin_api::{Dtype, ParameterSpec};

use super::packing::Packing;

/// How weights that are not trained are held on the device. Those that are trained are float32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// How layers are quantised; none are without.
    pub quantize: Option<Packing>,
    /// The type of all others, if that of the model's files is the same.
    pub dtype: Dtype,
    /// Whether those of another type in the files are rounded to it. Without, they are float32, and can be written as they were.
    pub rounds: bool,
}

impl Holding {
    /// Everything in float32.
    pub const PLAIN: Self = Self { quantize: None, dtype: Dtype::F32, rounds: false };

    /// The type that a weight is held in, which files have in this one; none where it is drawn.
    pub(super) fn planned(self, spec: &ParameterSpec, of_files: Option<Dtype>) -> Dtype {
        let is_held = self.rounds || of_files.is_none_or(|dtype| dtype == self.dtype);
        if spec.trainable || !is_held { Dtype::F32 } else { self.dtype }
    }

    /// Bytes of a weight, and of the same in float32.
    pub(super) fn bytes(self, spec: &ParameterSpec) -> (u64, u64) {
        const OF_NUMBER: u64 = size_of::<f32>() as u64;
        let elements = spec.shape.iter().fold(1_u64, |size, &axis| size.saturating_mul(axis as u64));
        let dtype = if spec.trainable { Dtype::F32 } else { self.dtype };
        let held = match self.quantize.filter(|packing| packing.suits(spec)) {
            Some(packing) => packing.bytes(elements, OF_NUMBER),
            None => elements.saturating_mul(dtype.size() as u64),
        };
        (held, elements.saturating_mul(OF_NUMBER))
    }
}
