//! The start-up lines of a run, and the numbers of each update.

use std::time::Duration;

use indicatif::HumanCount;
use mdt_plugin_api::{Event, MemoryInfo};

use super::run::Output;
use super::update::UpdateNumbers;
use super::{Run, estimate, prefetch};
use crate::config::{Init, Packing};
use crate::data::{self, RowLocation};
use crate::exit::Failure;
use crate::metrics;
use crate::progress::{self, Line};
use crate::staging::Staged;

impl Run<'_> {
    pub(super) fn announce(&self) -> Result<(), Failure> {
        let (settings, plan) = (self.settings(), &self.rows.plan);
        let device = self.learner.objective.compute.device();
        progress::note(&format!(
            "device   {} {} ({}, {} threads)",
            device.kind, device.name, device.library, device.threads
        ));
        let mut components = self.job.component_names()?;
        components.extend(self.output.observers.names());
        progress::note(&format!("plugins  {}", components.join(", ")));
        let (trained, frozen) = (self.learner.parameters.elements(), self.learner.parameters.frozen_elements());
        progress::note(&format!(
            "model    {} ({} parameters{}, {})",
            self.model.named().display(),
            HumanCount((trained + frozen) as u64),
            if frozen > 0 { format!(", {} of them trained", HumanCount(trained as u64)) } else { String::new() },
            match settings.model.init {
                Init::Random if self.learner.objective.adapter.is_some() =>
                    "from random weights, which the trained adapter is merged into at the end",
                Init::Random => "from random weights",
                Init::Pretrained => "pretrained",
            }
        ));
        if let Some(trainer) = self.job.trainer_keys() {
            progress::note(&format!("trainer  {trainer}"));
        }
        progress::note(&format!("data     {}", self.rows.summary));
        settings.data.revisions.iter().for_each(|revision| progress::note(&format!("data     from {revision}")));
        if let Some(notes) = self.rows.train.as_ref().and_then(prefetch::Source::notes) {
            let name = |rows: &[RowLocation]| data::describe(&self.rows.sources, rows);
            notes.lines(&name).iter().for_each(|note| progress::note(&format!("note     {note}")));
        }
        if let Some(prompts) = &self.prompts {
            progress::note(&format!("prompts  {prompts}"));
        }
        if let Some(held_out) = &self.rows.held_out {
            progress::note(&format!("held out {}", held_out.summary()));
        }
        let packs = settings.trainer.packing != Packing::None && self.learner.objective.trainer.prepare.is_none();
        let rows = if packs { "packed rows" } else { "rows" };
        progress::note(&format!(
            "plan     {} updates, {}{} {rows} each",
            plan.total_updates(),
            plan.updates_per_epoch().map_or(String::new(), |updates| format!("{updates} per epoch, ")),
            plan.rows_per_update().min(plan.rows.unwrap_or(usize::MAX))
        ));
        let available = estimate::available(self.job).map(|available| format!("; {} available", available.text()));
        progress::note(&format!("memory   about {}{}", self.estimate, available.unwrap_or_default()));
        let patience = settings.trainer.early_stopping_patience;
        if patience > 0 {
            let unkept = ", whose weights are not kept: `checkpoint.export = \"best\"` would";
            let unkept = if settings.checkpoint.keeps_best() { "" } else { unkept };
            progress::note(&format!("stop     {patience} evaluations after the last improvement{unkept}"));
        }
        Ok(())
    }

    /// Writes an update's numbers to metrics.jsonl and the terminal. All ranks call it.
    pub(super) fn report(&mut self, numbers: UpdateNumbers, took: Duration) -> Result<(), Failure> {
        let (step, settings, plan) = (self.done, self.settings(), &self.rows.plan);
        let UpdateNumbers { loss, grad_norm, learning_rate: lr, .. } = numbers;
        let tokens_per_s = numbers.tokens as f64 / took.as_secs_f64();
        let Output { plugin_metrics, slow_rank, progress, .. } = &mut self.output;
        progress.update(&Line { step, loss, lr, tokens_per_s, grad_norm });
        let Staged { to_device, to_host } = numbers.staged;
        progress::debug(&format!("update {step}: {to_device} bytes copied to the device, {to_host} bytes from it"));
        progress::debug(&format!(
            "update {step}: {} bytes of gradients for the other ranks; {:.3} ms until they were summed",
            numbers.reduced_bytes,
            numbers.reduction_wait.as_secs_f64() * 1e3
        ));
        let MemoryInfo { active_bytes, peak_bytes, cached_bytes } = self.learner.objective.compute.memory();
        progress::debug(&format!(
            "update {step}: tensors have {active_bytes} bytes, had {peak_bytes} at most, and {cached_bytes} are kept"
        ));
        plugin_metrics.add_reports(self.job.services.take_metrics());
        if step != plan.total_updates() && !step.is_multiple_of(settings.metrics.every.max(1)) {
            return Ok(());
        }
        let line = metrics::Update {
            step,
            epoch: plan.epochs_after(step),
            loss,
            grad_norm,
            lr,
            tokens: numbers.tokens,
            supervised_tokens: numbers.supervised_tokens,
            tokens_per_s,
            step_s: took.as_secs_f64(),
            data_wait_s: numbers.data_wait.as_secs_f64(),
            peak_memory_bytes: metrics::peak_memory_bytes(),
        };
        let own_part = numbers.own_part.as_secs_f64();
        let (extra, own_parts) = plugin_metrics.line(step, numbers.metrics, own_part, &self.peers)?;
        if let Some(note) = slow_rank.add(&own_parts).filter(|_| self.peers.is_first()) {
            progress.note(&note);
        }
        self.output.write_line(Event::Updated, step, &line, &extra)
    }
}
