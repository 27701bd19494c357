//! Measurements of whole updates.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use mdt_plugin_api::Encoded;
use serde::Serialize;

use super::clip;
use super::gradient::{Objective, WEIGHT};
use super::optimizer::Updater;
use crate::exit::Failure;
use crate::job::{Job, OpenedModel};
use crate::metrics;
use crate::random::Stream;

/// The figures of [`train`].
#[derive(Debug, Serialize)]
pub struct TrainFigures {
    /// Tokens of an update by its median time.
    pub tokens_per_s: f64,
    /// The median, shortest and longest time of an update, in seconds.
    pub step_s_median: f64,
    /// The shortest.
    pub step_s_min: f64,
    /// The longest.
    pub step_s_max: f64,
    /// The most memory that the process had.
    pub peak_memory_bytes: Option<u64>,
    /// Number of parameters.
    pub parameters: usize,
    /// Loss of the last update: falls where learning works, since the rows stay the same.
    pub loss: f64,
}

/// Full updates on `batch_size` rows of `tokens` random tokens each: upload, forward, backward, norm, clipping,
/// optimizer. One update goes unmeasured.
///
/// # Errors
/// Plugins or model cannot be used.
pub fn train(job: &Job, tokens: usize, steps: u32) -> Result<TrainFigures, Failure> {
    let settings = &job.resolved.settings;
    let opened = job.open_model(job.compute()?)?;
    let mut parameters = opened.weights()?;
    let OpenedModel { compute, model, trainer, .. } = opened;
    let mut updater = Updater::new(job.optimizer()?, &parameters, &settings.optimizer)?;
    let mut stream = Stream::new(settings.seed, "bench", 0);
    let vocabulary = model.vocabulary_size() as u64;
    let rows: Vec<Encoded> = (0..settings.trainer.batch_size)
        .map(|_| Encoded {
            tokens: (0..tokens).map(|_| stream.below(vocabulary) as u32).collect(),
            supervised: (0..tokens).map(|place| place > 0).collect(),
            truncated: 0,
        })
        .collect();
    let rows: Vec<&Encoded> = rows.iter().collect();
    let objective = Objective::new(compute, model, Arc::clone(&trainer));
    let (mut times, mut loss, mut buffer) = (Vec::new(), 0.0, vec![0.0; parameters.elements()]);
    for step in 0..=steps {
        let begin = Instant::now();
        let batch = trainer.collate(&rows)?;
        let mut partial = objective.gradient(&parameters, &batch, buffer)?;
        let weight = partial.scalars[WEIGHT];
        let norm = clip::norm_of_mean(&partial.gradient, weight);
        clip::scale(&mut partial.gradient, weight, norm, settings.trainer.max_grad_norm);
        updater.apply(&mut parameters, &partial.gradient, u64::from(step) + 1, settings.optimizer.learning_rate)?;
        loss = partial.scalars[0] / weight;
        buffer = partial.gradient;
        if step > 0 {
            times.push(begin.elapsed().as_secs_f64());
        }
    }
    times.sort_by(f64::total_cmp);
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    Ok(TrainFigures {
        tokens_per_s: (rows.len() * tokens) as f64 / median,
        step_s_median: median,
        step_s_min: times.first().copied().unwrap_or_default(),
        step_s_max: times.last().copied().unwrap_or_default(),
        peak_memory_bytes: metrics::peak_memory_bytes(),
        parameters: parameters.elements(),
        loss,
    })
}

impl fmt::Display for TrainFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0} tokens/s; update {:.3} s (median; {:.3} to {:.3}); peak memory {} MiB; {} parameters; loss {:.3}",
            self.tokens_per_s,
            self.step_s_median,
            self.step_s_min,
            self.step_s_max,
            self.peak_memory_bytes.unwrap_or_default() >> 20,
            self.parameters,
            self.loss
        )
    }
}
