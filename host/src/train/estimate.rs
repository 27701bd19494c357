//! The memory that a job will need, told before anything is spent.
//!
//! Weights, gradients and states are sums of sizes. What is computed is planned: the trainer's loss and the model run on a
//! device that has types instead of numbers, see [`planning`], and the compute plugin says what the evaluation needs. The rest
//! of the process is measured, as rows and plugins are there already.

mod admission;
mod micro_batches;
mod planning;
mod work;

use std::fmt;
use std::rc::Rc;

use mdt_plugin_api::{Compute, ParameterSpec};

use self::admission::Available;
use self::planning::Planning;
pub use self::work::Work;
use super::frozen::Frozen;
use super::layout::GradientLayout;
use super::optimizer::OptimizerPlan;
use crate::config::{CheckpointActivations, Settings};
use crate::data::{self, Encoder};
use crate::exit::Failure;
use crate::job::{Job, OpenedModel};
use crate::memory::{memory, size};
use crate::model;
use crate::{metrics, progress, rank_processes};

/// Bytes, by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Weights of the model, trained or not, and of the trainer.
    pub weights: u64,
    /// Weights of the reference and of further models.
    pub other_models: u64,
    /// Gradients that are added up, as many as accumulation has at a time.
    pub gradients: u64,
    /// The optimizer's states, and new values of them and of weights that are there beside the old ones.
    pub states: u64,
    /// What a micro-batch computes, its own gradients included; none where the compute plugin cannot tell, or where the trainer
    /// prepares its batches itself.
    pub activations: Option<u64>,
    /// The rest of the process: program, plugins, rows.
    pub rest: u64,
    /// Weights while they are loaded, with copies of the one that is on its way.
    pub loading: u64,
    /// Files that weights are read from, which are in memory until these are loaded.
    pub files: u64,
    /// The model that an adapter is merged into when training ends, where it is.
    pub merged: u64,
    /// Whether layers are computed again for gradients.
    pub recompute: bool,
}

/// What the process needs beyond what it has when the estimate is made: code and buffers of the compute plugin.
const REST_TO_COME: u64 = 12 << 20;

/// Buffers of the last update that a device still keeps when an adapter is merged, as the reciprocal of their share of what is in use
/// then: the share down to which the plugin `mlx` frees them.
const KEPT: u64 = 4;

impl Estimate {
    /// The most bytes of the process at a time.
    pub fn peak(&self) -> u64 {
        self.training().max(self.loading()).max(self.merging())
    }

    fn training(&self) -> u64 {
        self.between_updates() + self.activations.unwrap_or(0)
    }

    fn between_updates(&self) -> u64 {
        self.rest + self.weights + self.other_models + self.gradients + self.states
    }

    fn merging(&self) -> u64 {
        let kept = (self.weights + self.merged) / KEPT;
        self.between_updates() + self.merged + kept.min(self.activations.unwrap_or(0))
    }

    fn loading(&self) -> u64 {
        self.rest + self.weights.max(self.loading) + self.other_models + self.files
    }

    /// The same without files, whose memory the system frees where others need it.
    pub fn needed(&self) -> u64 {
        Self { files: 0, ..*self }.peak()
    }
}

/// The memory that a job may use, where the system says.
pub fn available(job: &Job) -> Option<Available> {
    let bytes = memory()?.available;
    // `launch` starts all ranks here; others may be anywhere.
    let started = job.resolved.started.as_ref().and_then(|started| started.share.as_ref());
    let ranks = match started {
        Some(here) => u64::from(here.value),
        None => rank_processes::ranks_here().unwrap_or(1),
    };
    Some(Available { bytes, resident: metrics::resident_memory_bytes().unwrap_or(0), ranks })
}

/// Estimates what a process does with the model of a job, and refuses it if it does not fit.
///
/// # Errors
/// Those of [`estimate`]. Status 4, as for weights that are too large: it is known once model and data are, before anything is
/// written. The message names what would make it fit.
pub fn admit(job: &Job, opened: &OpenedModel, work: Work<'_>, force: bool) -> Result<Estimate, Failure> {
    let choice = job.resolved.settings.trainer.checkpoint_activations;
    let mut estimate = self::estimate(job, opened, work, choice.recomputes())?;
    let Some(available) = available(job) else { return Ok(estimate) };
    if choice == CheckpointActivations::Auto && work.trains() && !available.holds(&estimate) {
        estimate = self::estimate(job, opened, work, true)?;
    }
    if force || available.holds(&estimate) {
        return Ok(estimate);
    }
    let mut smaller = Vec::new();
    for alternatives in admission::changes(&job.resolved.settings, work.trains()) {
        // One that cannot be estimated is not named.
        let estimated = alternatives
            .into_iter()
            .filter_map(|change| Some((change.keys, of_settings(job, change.settings, work).ok()?)));
        smaller.extend(estimated.into_iter().find(|(_, estimate)| available.holds(estimate)));
    }
    Err(admission::refusal(&estimate, available, &smaller))
}

/// Opens a job as a run does, as far as its estimate needs, and estimates it.
///
/// # Errors
/// As a run: the model or the data cannot be used; the job does not fit.
pub fn admitted(job: &Job) -> Result<Estimate, Failure> {
    let opened = job.open_model(job.compute()?)?;
    // Its errors come before those of the data, as in a run.
    optimizer(job, &opened)?;
    let encoder = Encoder::new(job, &opened.trainer, Some(opened.model.spec()));
    let data = data::read(job, &encoder, &opened.tokenizer_files()?.checksum()?)?;
    opened.check_files()?;
    admit(job, &opened, Work::Training(&data), false)
}

/// Estimates the same work with other settings.
fn of_settings(job: &Job, settings: Settings, work: Work<'_>) -> Result<Estimate, Failure> {
    let mut job = job.clone();
    job.resolved.settings = settings;
    let opened = job.open_model(job.compute()?)?;
    let opened = if work.trains() { opened } else { opened.to_be_used_only() };
    // What is chosen by itself is to save memory here.
    let recompute = job.resolved.settings.trainer.checkpoint_activations != CheckpointActivations::None;
    estimate(&job, &opened, work, recompute)
}

fn optimizer(job: &Job, opened: &OpenedModel) -> Result<OptimizerPlan, Failure> {
    OptimizerPlan::new(job.optimizer()?, &job.resolved.settings.optimizer, &model::trained(&opened.parameters()))
}

/// `3.1 GiB: weights 0.4, gradients 0.4, states 0.8, activations 1.3, other 0.2`.
impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("weights", self.weights),
            ("other models", self.other_models),
            ("gradients", self.gradients),
            ("states", self.states),
            ("activations", self.activations.unwrap_or(0)),
            ("other", self.rest),
        ];
        let small = self.peak() < 1 << 30;
        let number = |bytes: u64| match small {
            true => format!("{}", (bytes + (1 << 19)) >> 20),
            false => format!("{:.1}", bytes as f64 / f64::from(1 << 30)),
        };
        let shown = parts.into_iter().filter(|(_, bytes)| *bytes > 0);
        let parts: Vec<String> = shown.map(|(name, bytes)| format!("{name} {}", number(bytes))).collect();
        write!(f, "{}: {}", size(self.peak()), parts.join(", "))?;
        if self.activations.is_none() {
            write!(f, ", activations not known")?;
        }
        if self.loading().max(self.merging()) > self.training() {
            let when = if self.loading() > self.merging() { "weights are loaded" } else { "the adapter is merged" };
            write!(f, "; most while {when}")?;
        }
        if self.recompute {
            write!(f, " (layers are computed again for gradients)")?;
        }
        Ok(())
    }
}

/// Estimates what a process does with a model that is open.
///
/// # Errors
/// Components cannot be made; files of weights cannot be read.
fn estimate(job: &Job, opened: &OpenedModel, work: Work<'_>, recompute: bool) -> Result<Estimate, Failure> {
    let rest = metrics::resident_memory_bytes().unwrap_or(0) + REST_TO_COME;
    let all = opened.parameters();
    let mut estimate = Estimate {
        weights: bytes(&all),
        rest,
        loading: opened.loading_bytes(),
        files: opened.file_bytes(),
        recompute,
        ..Estimate::default()
    };
    if work.trains() {
        let optimizer = optimizer(job, opened)?;
        // One for the sum, and those that wait for the last micro-batch.
        let waiting = (work.accumulation(&job.resolved.settings).max(1) - 1).checked_ilog2();
        let buffers = 1 + waiting.map_or(0, |log| u64::from(log) + 1);
        let layout = GradientLayout::of(&optimizer, &job.resolved.settings.comm, false)?;
        estimate.gradients = buffers * bytes(&model::trained(&all));
        estimate.states = optimizer.state_bytes(&layout.own()) + optimizer.update_bytes();
        // A benchmark writes no model.
        estimate.merged = if matches!(work, Work::Training(_)) { opened.merged_bytes() } else { 0 };
    }
    let planning = Planning::new(job.compute()?);
    let device: Rc<dyn Compute> = planning.clone();
    let dry = opened.on(job, Rc::clone(&device))?;
    let Some(parameters) = dry.planned_weights()? else { return Ok(estimate) };
    let Some((frozen, other_models)) = Frozen::planned(job, &dry, &parameters)? else { return Ok(estimate) };
    (estimate.weights, estimate.other_models) = (parameters.bytes()?, other_models);
    if work.trains() && dry.trainer.prepare.is_some() {
        // What it prepares depends on numbers, may take long and may have effects outside: it runs in training only.
        progress::debug("no evaluation was planned: the trainer prepares its batches itself");
        return Ok(estimate);
    }
    let planned = work.plan(job, dry, frozen, parameters, recompute);
    // What a trainer reports meanwhile is of no update.
    drop(job.services.take_metrics());
    match planned {
        Ok(()) => estimate.activations = planning.planned().map(|memory| memory.peak_bytes),
        // One that only works with real numbers. What is wrong with it comes up again when it computes.
        Err(failure) => progress::debug(&format!("no evaluation was planned: {}", failure.in_one_line())),
    }
    Ok(estimate)
}

/// The bytes of parameters as f32.
fn bytes(specs: &[ParameterSpec]) -> u64 {
    let elements = |spec: &ParameterSpec| spec.shape.iter().fold(1_u64, |size, &axis| size.saturating_mul(axis as u64));
    let own = specs.iter().filter(|spec| spec.tied_to.is_none());
    own.map(elements).fold(0, u64::saturating_add).saturating_mul(size_of::<f32>() as u64)
}
