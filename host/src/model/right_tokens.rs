//! How many of the tokens whose losses a trainer asks for have the largest logit.

use std::cell::Cell;
use std::rc::Rc;

use mdt_plugin_api::{Dtype, Result, Tensor};

/// The number of such tokens of one batch.
#[derive(Clone, Default)]
pub struct RightTokens(Rc<Cell<f64>>);

impl RightTokens {
    /// Adds those of logits `[N, V]` of the next tokens `[N]`, and computes their number at once, so that no logits are kept.
    pub(super) fn add(&self, logits: &Tensor, targets: &Tensor) -> Result<()> {
        let right = logits.argmax(-1)?.equal(targets)?.cast(Dtype::F32)?.sum()?.item()?;
        self.0.set(self.0.get() + right);
        Ok(())
    }

    /// Their number.
    pub fn number(&self) -> f64 {
        self.0.get()
    }
}
