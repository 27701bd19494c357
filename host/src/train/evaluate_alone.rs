//! `mdt-host evaluate`: the held-out loss of a model or a checkpoint, without training.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use mdt_plugin_api::{Bootstrap, HostServices};
use serde::Serialize;
use serde_json::json;

use super::estimate::{self, Work};
use super::evaluate::{Evaluation, HeldOutLoss, shown};
use super::frozen::Frozen;
use super::gradient::{ACCURACY, Objective};
use crate::data::{self, Encoder};
use crate::exit::{Failure, Status};
use crate::job::Job;
use crate::peers::Peers;
use crate::progress;

/// The figures of [`evaluate`].
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Mean over the supervised tokens of the held-out rows.
    pub loss: f64,
    /// `exp(loss)`, where the loss is that of tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
    /// The share of the supervised tokens that the model finds most likely, where the loss is that of tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Supervised tokens of the held-out rows.
    pub tokens: u64,
    /// The trainer's own numbers.
    pub metrics: BTreeMap<String, f64>,
    /// Seconds of the evaluation.
    pub seconds: f64,
}

/// The held-out loss of the job's model in this process; with `force` also where memory seems to be
/// too small. Compute thread.
///
/// # Errors
/// There are no held-out rows; the model, the data or the checkpoint cannot be used; the job does not fit into memory or is
/// cancelled.
pub fn evaluate(job: &Job, force: bool) -> Result<Figures, Failure> {
    let settings = &job.resolved.settings;
    if settings.data.eval.is_empty() {
        if settings.data.eval_split.is_none() {
            return Err(Failure::configuration("there are no rows for evaluation")
                .help("set `data.eval` to a file of them, or `data.eval_split` to hold out training rows"));
        }
        job.resolved.require_job()?;
    }
    let opened = job.open_model(job.compute()?)?;
    // A checkpoint has the loss that its job saw.
    let opened = if opened.checkpoint().is_some() { opened.as_in_training() } else { opened.to_be_used_only() };
    let encoder = Encoder::new(job, &opened.trainer, Some(opened.model.spec()));
    let held_out = data::held_out(job, &encoder, &opened.tokenizer_files()?.checksum()?)?;
    progress::note(&format!("held out {}", held_out.summary()));
    estimate::admit(job, &opened, Work::Evaluation(&held_out), force)?;
    let parameters = opened.weights()?;
    let after = opened.checkpoint().map_or(0, |checkpoint| checkpoint.state.update);
    let frozen = Frozen::load(job, &opened, &parameters)?;
    let objective = Objective { counts_right: true, ..Objective::new(job, opened, frozen) };
    let backend = job.other_comm("local", &json!({}))?;
    let alone = Bootstrap { world_size: 1, ..Bootstrap::default() };
    let peers = Peers::new(backend.open(&alone)?, "local", Duration::from_secs(1));

    let begin = Instant::now();
    let size = settings.trainer.batch_size as usize;
    let evaluation =
        Evaluation { objective: &objective, parameters: &parameters, peers: &peers, held_out: &held_out, size, after };
    let Some((batches, mut metrics)) = evaluation.run(&|| job.services.cancelled())? else {
        return Err(Failure::new(Status::Interrupted, "interrupted"));
    };
    let HeldOutLoss { loss, perplexity, tokens } = HeldOutLoss::of(&batches);
    if !loss.is_finite() {
        return Err(Failure::new(Status::NonFinite, format!("the held-out loss is {loss}")));
    }
    let accuracy = metrics.remove(ACCURACY);
    Ok(Figures { loss, perplexity, accuracy, tokens, metrics, seconds: begin.elapsed().as_secs_f64() })
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "held-out loss {:.4}", self.loss)?;
        if let Some(perplexity) = self.perplexity {
            write!(f, ", perplexity {}", shown(perplexity))?;
        }
        if let Some(accuracy) = self.accuracy {
            write!(f, ", accuracy {:.1} %", 100.0 * accuracy)?;
        }
        for (name, value) in &self.metrics {
            write!(f, ", {name} {value:.4}")?;
        }
        write!(f, " over {} tokens", self.tokens)
    }
}
