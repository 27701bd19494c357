//! Losses of language models.

use std::rc::Rc;

use super::layers::linear;
use super::{Call, ints};
use crate::{Dtype, Handle, RecomputedFunction, Result, Tensor};

pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let shape = ints(&logits.shape()?);
    let (rows, vocabulary) = (shape[0], shape[1]);
    let counts = targets.greater(-1.0)?;
    // Whatever the logits of a row are that costs nothing, its gradient is 0.
    let logits = counts.reshape(&[rows, 1])?.select(logits, &logits.number(0.0)?)?;
    let inside = targets.maximum(0.0)?.minimum((vocabulary - 1) as f64)?;
    let chosen = logits.take_along_axis(&inside.reshape(&[rows, 1])?, 1)?.reshape(&[rows])?;
    let losses = (&logits.log_sum_exp_axes(&[1], false)? - &chosen)?;
    let known = targets.less(vocabulary as f64)?.select(&losses, &losses.number(f64::NAN)?)?;
    counts.select(&known, &losses.number(0.0)?)
}

/// Head and loss of some rows at a time: the logits of one piece are there at a time, also in the pass backwards. The only piece is
/// not computed again.
pub fn token_losses(call: &Call<'_>) -> Result<Tensor> {
    const LOGITS: usize = 16 << 20;
    let (count, vocabulary) = (call.shape(0)?[0], call.shape(1)?[0]);
    let by_default = (LOGITS / vocabulary.max(1)).max(1);
    let rows = call.attributes().optional::<i64>("rows")?.map_or(by_default, |rows| rows as usize);
    let function = piece(call)?;
    // Widened once for all pieces, so that the gradients of the weight are added up in float32 too.
    let (hidden, weight, targets, bias) = (call.operand(0)?, call.operand(1)?, call.input(2)?, call.wide_or_none(3)?);
    let width = call.shape(0)?[1] as i64;
    let mut losses = Vec::new();
    for start in (0..count).step_by(rows) {
        let (start, stop) = (start as i64, count.min(start.saturating_add(rows)) as i64);
        let (hidden, targets) = (hidden.slice(&[start, 0], &[stop, width])?, targets.slice(&[start], &[stop])?);
        let inputs = [&hidden, &weight, &targets].into_iter().chain(&bias).map(Tensor::handle);
        let inputs: Vec<Handle> = inputs.collect();
        let of_piece =
            if count <= rows { function(&inputs)? } else { call.compute.checkpoint(Rc::clone(&function), &inputs)? };
        losses.extend(of_piece.into_iter().map(|losses| Tensor::from_handle(call.compute, losses)));
    }
    match &losses[..] {
        [] => Tensor::full(call.compute, &[0], 0.0, Dtype::F32),
        losses => Tensor::concatenate(&losses.iter().collect::<Vec<_>>(), 0),
    }
}

/// The losses of hidden states, a weight, targets and, if there is one, a bias.
fn piece(call: &Call<'_>) -> Result<Rc<RecomputedFunction>> {
    let scale = call.attributes().optional::<f64>("scale")?;
    let soft_cap = call.attributes().optional::<f64>("soft_cap")?;
    let compute = Rc::clone(call.compute);
    Ok(Rc::new(move |inputs| {
        let inputs: Vec<Tensor> = inputs.iter().map(|&input| Tensor::borrowed(&compute, input)).collect();
        let mut logits = linear(&inputs[0], &inputs[1], inputs.get(3))?;
        if let Some(scale) = scale {
            logits = logits.multiply(scale)?;
        }
        if let Some(cap) = soft_cap {
            logits = (&logits / cap)?.tanh()?.multiply(cap)?;
        }
        Ok(vec![logits.cross_entropy(&inputs[2])?.into_handle()?])
    }))
}
