//! A weight as the device holds it: whole, or quantised.

use mdt_plugin_api::op::attribute;
use mdt_plugin_api::{Attribute, Dtype, Layout, OpKind, Result, Tensor, Value};

use super::packing::Packing;
use super::precision::Precision;

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
    /// `x · Wᵀ (+ b)`: x `[.., in]`, result `[.., out]` of x's type.
    pub(super) fn linear(
        &self,
        x: &Tensor,
        layout: Layout,
        bias: Option<&Tensor>,
        precision: Precision,
    ) -> Result<Tensor> {
        match (self, layout) {
            (Self::Whole(weight), Layout::OutIn) => {
                let inputs: Vec<&Tensor> = [x, weight].into_iter().chain(bias).collect();
                Tensor::op(OpKind::LINEAR, &inputs, &precision.of_product())
            }
            (Self::Whole(weight), Layout::InOut) => {
                plus(Tensor::op(OpKind::MATMUL, &[x, weight], &precision.of_product())?, bias)
            }
            (Self::Quantised(weight), Layout::OutIn) => weight.linear(x, bias, precision),
            (Self::Quantised(_), Layout::InOut) => Weight::Whole(&self.whole()?).linear(x, layout, bias, precision),
        }
    }

    /// The products with the weights of experts `[E, out, in]`: x `[N, K or 1, in]`, experts `[N, K]`, result `[N, K, out]`.
    /// of x's type. Quantised ones are made whole for it.
    pub(super) fn experts(&self, x: &Tensor, experts: &Tensor, precision: Precision) -> Result<Tensor> {
        let product =
            |weight: &Tensor| Tensor::op(OpKind::GATHER_LINEAR, &[x, weight, experts], &precision.of_product());
        match self {
            Self::Whole(weight) => product(weight),
            Self::Quantised(weight) => product(&weight.whole()?),
        }
    }

    /// Rows of the weight: ids `[..]`, result `[.., D]`, float32 where the weight is quantised.
    pub(super) fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        match self {
            Self::Whole(weight) => Tensor::op(OpKind::EMBEDDING, &[weight, ids], &[]),
            Self::Quantised(weight) => weight.rows(ids),
        }
    }

    /// All of its elements, float32.
    pub(super) fn whole(&self) -> Result<Tensor> {
        match self {
            Self::Whole(weight) => Precision::F32.activation(weight.try_clone()?),
            Self::Quantised(weight) => weight.whole(),
        }
    }
}

impl Quantised<'_> {
    fn linear(&self, x: &Tensor, bias: Option<&Tensor>, precision: Precision) -> Result<Tensor> {
        let [words, scales, biases] = self.parts;
        let mut inputs = vec![x, words, scales, biases];
        inputs.extend(bias);
        let attributes = [&self.attributes()[..], &precision.of_product()].concat();
        let result = Tensor::op(OpKind::QUANTIZED_LINEAR, &inputs, &attributes)?;
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

/// The sum, of the product's type.
pub(super) fn plus(product: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let Some(bias) = bias else { return Ok(product) };
    let dtype = product.tensor_type()?.dtype;
    if bias.tensor_type()?.dtype == dtype { &product + bias } else { &product + &bias.cast(dtype)? }
}
