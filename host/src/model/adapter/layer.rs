//! What an adapter adds to one layer.

use mdt_plugin_api::{Layout, OpKind, Result, Tensor};

use super::Rule;
use crate::model::precision::Precision;
use crate::model::weight::Weight;

/// The norm of weights that are all 0.
const LEAST_NORM: f64 = 1e-30;

/// The adapter of one layer.
pub(in crate::model) struct LayerAdapter<'a> {
    /// `[rank, in]`.
    pub(in crate::model) a: &'a Tensor,
    /// `[out, rank]`.
    pub(in crate::model) b: &'a Tensor,
    /// `[out]`, for DoRA.
    pub(in crate::model) magnitude: Option<&'a Tensor>,
    pub(in crate::model) rule: Rule,
    /// What its dropout is drawn from; none outside of training.
    pub(in crate::model) key: Option<u64>,
    /// What it is computed in.
    pub(in crate::model) precision: Precision,
}

impl LayerAdapter<'_> {
    /// `scale · (x · Aᵀ) · Bᵀ`.
    fn product(&self, x: &Tensor) -> Result<Tensor> {
        self.expanded(&self.multiplied(x, self.a)?)
    }

    /// `x · Wᵀ`, of x's type.
    fn multiplied(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        Tensor::op(OpKind::LINEAR, &[x, weight], &self.precision.of_product())
    }

    /// `scale · y · Bᵀ`. The scale goes to the narrow side.
    fn expanded(&self, y: &Tensor) -> Result<Tensor> {
        if self.rule.scale == 1.0 {
            self.multiplied(y, self.b)
        } else {
            self.multiplied(&y.multiply(self.rule.scale)?, self.b)
        }
    }

    /// The adapter's input where some of it is dropped.
    fn dropped(&self, x: &Tensor) -> Result<Option<Tensor>> {
        let key = self.key.filter(|_| self.rule.dropout > 0.0);
        key.map(|key| x.dropout(self.rule.dropout, key)).transpose()
    }

    /// What a linear layer gives with it, of its input, of what it gives without, of its weight and of its bias: of the input's type.
    pub(in crate::model) fn linear(
        &self,
        x: &Tensor,
        base: &Tensor,
        weight: &Weight<'_>,
        layout: Layout,
        bias: Option<&Tensor>,
    ) -> Result<Tensor> {
        let dropped = self.dropped(x)?;
        let added = self.product(dropped.as_ref().unwrap_or(x))?;
        let Some(magnitude) = self.magnitude else { return base + &added };
        // As in peft, so that a magnitude that is the norm leaves the layer's bits as they are.
        let factor = (magnitude / &weight_norm(weight, layout, Some(self))?.stop_gradient()?)?;
        let plain = match (&dropped, bias) {
            (Some(x), _) => weight.linear(x, layout, None, self.precision)?,
            (None, Some(bias)) => (base - bias)?,
            (None, None) => base.try_clone()?,
        };
        let turned = (&factor.plus(-1.0)? * &plain)?;
        // The factor is float32, and so is their sum.
        let (sum, dtype) = ((&(base + &turned)? + &(&factor * &added)?)?, x.tensor_type()?.dtype);
        if sum.tensor_type()?.dtype == dtype { Ok(sum) } else { sum.cast(dtype) }
    }

    /// What an embedding gives with it, of ids, of what it gives without, and of its weight.
    pub(in crate::model) fn embedding(&self, ids: &Tensor, base: &Tensor, weight: &Weight<'_>) -> Result<Tensor> {
        let added = self.expanded(&self.a.transpose(&[1, 0])?.embedding(ids)?)?;
        let Some(magnitude) = self.magnitude else { return base + &added };
        // The outputs of an embedding are columns, as those of a weight `[in, out]`.
        let factor = (magnitude / &weight_norm(weight, Layout::InOut, Some(self))?.stop_gradient()?)?;
        &(&factor * base)? + &(&factor * &added)?
    }

    /// `scale · B · A`, in the order of the weight's axes.
    pub(super) fn change(&self, layout: Layout) -> Result<Tensor> {
        let change = match layout {
            Layout::OutIn => self.b.matmul(self.a)?,
            Layout::InOut => self.a.transpose(&[1, 0])?.matmul(&self.b.transpose(&[1, 0])?)?,
        };
        change.multiply(self.rule.scale)
    }
}

/// The norm of the weights of each output, with what an adapter adds to them: `[out]`. That of weights that are all 0 counts as
/// [`LEAST_NORM`], because magnitudes are divided by it.
pub(super) fn weight_norm(weight: &Weight<'_>, layout: Layout, adapter: Option<&LayerAdapter<'_>>) -> Result<Tensor> {
    let weight = weight.whole()?;
    let squares = match adapter {
        Some(adapter) => (&weight + &adapter.change(layout)?)?.square()?,
        None => weight.square()?,
    };
    let axis = match layout {
        Layout::OutIn => 1,
        Layout::InOut => 0,
    };
    squares.sum_axis(axis)?.sqrt()?.maximum(LEAST_NORM)
}
