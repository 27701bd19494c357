//! Cross-entropy of the supervised tokens.

use mdt_plugin_api::{Batch, Dtype, Error, Loss, Result, Tensor, TrainerContext};

use crate::collate::{ROWS, TARGETS, TOKENS};

/// Sum of -log p(token | everything before it) over the supervised tokens, in nats, and their number.
///
/// Only the hidden states that predict a supervised token go through the head: logits are by far the largest array of
/// a step, and those of prompts and padding would be thrown away.
pub fn loss(ctx: &TrainerContext, batch: &Batch) -> Result<Loss> {
    let (rows, targets) = (batch.get(ROWS)?, batch.get(TARGETS)?);
    let hidden = ctx.hidden(batch.get(TOKENS)?, None, None)?;
    let width = *hidden.shape()?.last().ok_or_else(|| Error::plugin("the model's hidden states are a scalar"))?;
    let supervised = hidden.reshape(&[-1, width as i64])?.take(rows, 0)?;
    let losses = ctx.token_losses(&supervised, targets)?;

    let count: usize = targets.shape()?.iter().product();
    Ok(Loss {
        sum: losses.cast(Dtype::F32)?.sum()?,
        weight: Tensor::full(ctx.compute(), &[], count as f64, Dtype::F32)?,
        metrics: Vec::new(),
    })
}
