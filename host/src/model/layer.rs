//! A layer by its name: what its weight is made of, and what the layer computes.

use mdt_plugin_api::op::attribute;
use mdt_plugin_api::{Head, Layout, OpKind, Result, Tensor, Value};

use super::adapter::LayerAdapter;
use super::precision::Precision;
use super::weight::{self, Weight};

/// A layer's weight and bias. Everything that a model does with `<name>.weight` as a layer passes through here.
pub(super) struct Layer<'a> {
    /// `<name>.weight`.
    pub(super) weight: Weight<'a>,
    /// The order of its axes.
    pub(super) layout: Layout,
    /// `<name>.bias`, where the model declares one.
    pub(super) bias: Option<&'a Tensor>,
    /// What is trained beside it.
    pub(super) adapter: Option<LayerAdapter<'a>>,
    /// What it is computed in.
    pub(super) precision: Precision,
}

impl Layer<'_> {
    /// `W x (+ b)`: x `[.., in]`, result `[.., out]` of x's type.
    pub(super) fn linear(&self, x: &Tensor) -> Result<Tensor> {
        let base = self.weight.linear(x, self.layout, self.bias, self.precision)?;
        match &self.adapter {
            Some(adapter) => adapter.linear(x, &base, &self.weight, self.layout, self.bias),
            None => Ok(base),
        }
    }

    /// The layers of experts: x `[N, K or 1, in]`, experts `[N, K]`, result `[N, K, out]` of x's type.
    pub(super) fn experts(&self, x: &Tensor, experts: &Tensor) -> Result<Tensor> {
        let product = self.weight.experts(x, experts, self.precision)?;
        match self.bias {
            Some(bias) => weight::plus(product, Some(&Tensor::op(OpKind::EMBEDDING, &[bias, experts], &[])?)),
            None => Ok(product),
        }
    }

    /// Cross-entropy of the logits of hidden states `[N, D]`, of which `rows` rows are there at a time, or as many as the
    /// operation takes: `[N]`. None for a layer that is not one operation with its loss.
    pub(super) fn token_losses(
        &self,
        head: &Head,
        hidden: &Tensor,
        targets: &Tensor,
        rows: Option<usize>,
    ) -> Result<Option<Tensor>> {
        let (Layout::OutIn, Weight::Whole(weight), None) = (self.layout, &self.weight, &self.adapter) else {
            return Ok(None);
        };
        let mut attributes = self.precision.of_product();
        if head.scale != 1.0 {
            attributes.push(attribute("scale", Value::Float(head.scale)));
        }
        attributes.extend(head.soft_cap.map(|cap| attribute("soft_cap", Value::Float(cap))));
        attributes.extend(rows.map(|rows| attribute("rows", Value::Int(rows as i64))));
        let inputs: Vec<&Tensor> = [hidden, weight, targets].into_iter().chain(self.bias).collect();
        Tensor::op(OpKind::TOKEN_LOSSES, &inputs, &attributes).map(Some)
    }

    /// Rows of the weight: ids `[..]`, result `[.., D]`. They are converted, not the table.
    pub(super) fn embedding(&self, ids: &Tensor) -> Result<Tensor> {
        let base = self.weight.rows(ids)?;
        let rows = match &self.adapter {
            Some(adapter) => adapter.embedding(ids, &base, &self.weight)?,
            None => base,
        };
        self.precision.activation(rows)
    }
}
