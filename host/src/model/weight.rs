//! A weight as the device holds it: whole, or quantised.

use mdt_plugin_api::op::attribute;
use mdt_plugin_api::{Attribute, Dtype, Layout, OpKind, Result, Tensor, Value};

use super::packing::Packing;

/// The weight of a layer.
#[derive(Clone, Copy)]
pub(super) enum Weight<'a> {
    /// Its elements.
    Whole(&'a Tensor),
    /// Its elements in few bits each. No gradient reaches them.
    Quantised(Quantised<'a>),
}

/// A quantised weight `[.., out, in]`.
#[derive(Clone, Copy)]
pub(super) struct Quantised<'a> {
    /// `[.., out, in · bits / 32]` uint32, `[.., out, in / group_size]` and the same, as [`Tensor::quantize`] gives them.
    pub(super) parts: [&'a Tensor; 3],
    pub(super) packing: Packing,
}

impl Weight<'_> {
    /// `x · Wᵀ (+ b)`: x `[.., in]`, result `[.., out]` of x's type where the weight is quantised.
    pub(super) fn linear(&self, x: &Tensor, layout: Layout, bias: Option<&Tensor>) -> Result<Tensor> {
        match (self, layout, bias) {
            (Self::Whole(weight), Layout::OutIn, bias) => x.linear(weight, bias),
            (Self::Whole(weight), Layout::InOut, Some(bias)) => &x.matmul(weight)? + bias,
            (Self::Whole(weight), Layout::InOut, None) => x.matmul(weight),
            (Self::Quantised(weight), Layout::OutIn, bias) => weight.linear(x, bias),
            (Self::Quantised(_), Layout::InOut, bias) => Weight::Whole(&self.whole()?).linear(x, Layout::InOut, bias),
        }
    }

    /// The products with the weights of experts `[E, out, in]`: x `[N, K or 1, in]`, experts `[N, K]`, result `[N, K, out]`.
    /// Quantised ones are made whole for it.
    pub(super) fn experts(&self, x: &Tensor, experts: &Tensor) -> Result<Tensor> {
        match self {
            Self::Whole(weight) => Tensor::op(OpKind::GATHER_LINEAR, &[x, weight, experts], &[]),
            Self::Quantised(weight) => Tensor::op(OpKind::GATHER_LINEAR, &[x, &weight.whole()?, experts], &[]),
        }
    }

    /// Rows of the weight: ids `[..]`, result `[.., D]`, float32 where the weight is quantised.
    pub(super) fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        match self {
            Self::Whole(weight) => Tensor::op(OpKind::EMBEDDING, &[weight, ids], &[]),
            Self::Quantised(weight) => weight.rows(ids),
        }
    }

    /// All of its elements, float32 where it is quantised.
    pub(super) fn whole(&self) -> Result<Tensor> {
        match self {
            Self::Whole(weight) => weight.try_clone(),
            Self::Quantised(weight) => weight.whole(),
        }
    }
}

impl Quantised<'_> {
    fn linear(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let [words, scales, biases] = self.parts;
        let mut inputs = vec![x, words, scales, biases];
        inputs.extend(bias);
        let result = Tensor::op(OpKind::QUANTIZED_LINEAR, &inputs, &self.attributes())?;
        // The scales may be of a wider type than the activations.
        let (dtype, wanted) = (result.tensor_type()?.dtype, x.tensor_type()?.dtype);
        if dtype == wanted { Ok(result) } else { result.cast(wanted) }
    }

    fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        let take = |part: &Tensor| Tensor::op(OpKind::TAKE, &[part, ids], &[attribute("axis", Value::Int(0))]);
        let [words, scales, biases] = self.parts;
        self.dequantised([&take(words)?, &take(scales)?, &take(biases)?])
    }

    fn whole(&self) -> Result<Tensor> {
        self.dequantised(self.parts)
    }

    fn dequantised(&self, [words, scales, biases]: [&Tensor; 3]) -> Result<Tensor> {
        let [scales, biases] = [scales.cast(Dtype::F32)?, biases.cast(Dtype::F32)?];
        Tensor::op(OpKind::DEQUANTIZE, &[words, &scales, &biases], &self.attributes())
    }

    fn attributes(&self) -> [Attribute<'static>; 2] {
        [
            attribute("group_size", Value::Int(self.packing.group_size as i64)),
            attribute("bits", Value::Int(self.packing.bits as i64)),
        ]
    }
}
