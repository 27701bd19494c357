//! What a run tells its user: start-up lines, the numbers of updates.

use std::time::Duration;

use indicatif::HumanCount;

use super::Run;
use super::update::UpdateLine;
use crate::config::Init;
use crate::exit::Failure;
use crate::metrics;
use crate::progress::{self, Line};

impl Run<'_> {
    /// Says what is about to run.
    pub(super) fn announce(&self) {
        let device = self.compute.device();
        progress::note(&format!(
            "device   {} {} ({}, {} threads)",
            device.kind, device.name, device.library, device.threads
        ));
        progress::note(&format!("plugins  {}", self.components.join(", ")));
        progress::note(&format!(
            "model    {} ({} parameters, {})",
            self.directory.path().display(),
            HumanCount(self.parameters.elements() as u64),
            match self.settings.model.init {
                Init::Random => "from random weights",
                Init::Pretrained => "pretrained",
            }
        ));
        progress::note(&format!("data     {}", self.dataset.summary()));
        if let Some(held_out) = &self.held_out {
            progress::note(&format!("held out {}", held_out.summary()));
        }
        progress::note(&format!(
            "plan     {} updates, {} per epoch, {} rows each",
            self.plan.total_updates(),
            self.plan.updates_per_epoch(),
            self.plan.batch_size * self.plan.accumulation * self.plan.world_size
        ));
        let patience = self.settings.trainer.early_stopping_patience;
        if patience > 0 {
            let unkept = ", whose weights are not kept: `checkpoint.export = \"best\"` would";
            let unkept = if self.settings.checkpoint.keeps_best() { "" } else { unkept };
            progress::note(&format!("stop     {patience} evaluations after the last improvement{unkept}"));
        }
    }

    /// Writes an update's numbers to metrics.jsonl and the terminal.
    pub(super) fn report(&mut self, line: UpdateLine, took: Duration) -> Result<(), Failure> {
        let line = metrics::Update {
            step: self.done,
            epoch: self.plan.epochs_after(self.done),
            loss: line.loss,
            grad_norm: line.grad_norm,
            lr: line.learning_rate,
            tokens: line.tokens,
            supervised_tokens: line.supervised_tokens,
            tokens_per_s: line.tokens as f64 / took.as_secs_f64(),
            step_s: took.as_secs_f64(),
            data_wait_s: line.data_wait.as_secs_f64(),
            peak_memory_bytes: metrics::peak_memory_bytes(),
            extra: line.metrics.into_iter().collect(),
        };
        let metrics::Update { step, loss, lr, tokens_per_s, grad_norm, .. } = line;
        self.progress.update(&Line { step, loss, lr, tokens_per_s, grad_norm });
        let last = self.done == self.plan.total_updates();
        if last || self.done.is_multiple_of(self.settings.metrics.every.max(1)) {
            self.metrics.as_mut().map_or(Ok(()), |metrics| metrics.update(&line))?;
        }
        Ok(())
    }
}
