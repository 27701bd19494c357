//! `mdt-host bench train`: how long an update takes, and the memory that it needs.

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use mdt_plugin_api::{BatchRows, Bootstrap, Item};
use serde::Serialize;
use serde_json::json;

use super::Spread;
use crate::config::{self, Settings};
use crate::data::RowLocation;
use crate::exit::Failure;
use crate::job::Job;
use crate::metrics;
use crate::model;
use crate::peers::Peers;
use crate::random::Stream;
use crate::staging::Staged;
use crate::train::estimate::{self, Work};
use crate::train::frozen::Frozen;
use crate::train::gradient::Objective;
use crate::train::layout::GradientLayout;
use crate::train::optimizer::{OptimizerPlan, StatefulOptimizer};
use crate::train::prefetch::{Ahead, MicroBatch};
use crate::train::stop::Stop;
use crate::train::update::Learner;

/// The figures of [`train`].
#[derive(Debug, Serialize)]
pub struct TrainFigures {
    /// Tokens of an update by its median time.
    pub tokens_per_s: f64,
    pub step_s_median: f64,
    pub step_s_min: f64,
    pub step_s_max: f64,
    pub peak_memory_bytes: Option<u64>,
    /// The peak that was estimated before.
    pub estimated_memory_bytes: u64,
    pub parameters: usize,
    /// Bytes of an update that were copied to the device.
    pub staged_to_device_bytes: u64,
    /// Bytes of an update that were copied from the device.
    pub staged_to_host_bytes: u64,
    /// Loss of the last update. The rows of all updates are the same, so it falls.
    pub loss: f64,
}

/// Full updates, as training makes them on one rank, on micro-batches of `batch_size` rows of `tokens` random tokens
/// each: collate, upload, forward, backward, accumulation, reduction, guard, clipping, optimizer. One update is not
/// measured. With `force` also where memory seems to be too small.
///
/// # Errors
/// What a run of the job would say; it does not fit into memory.
pub fn train(job: &Job, tokens: usize, steps: u32, force: bool) -> Result<TrainFigures, Failure> {
    let settings = &job.resolved.settings;
    let opened = job.open_model(job.compute()?)?;
    opened.check_files()?;
    let optimizer = job.optimizer()?;
    let optimizer = OptimizerPlan::new(optimizer, &settings.optimizer, &model::trained(&opened.parameters()))?;
    let estimate = estimate::admit(job, &opened, Work::Updates { tokens }, force)?;
    let parameters = opened.weights()?;
    let updates = u64::from(steps) + 1;
    let layout = GradientLayout::of(&optimizer, &config::Comm::default(), false)?;
    let optimizer = StatefulOptimizer::new(optimizer, &parameters, &settings.scheduler, updates, &layout)?;
    let backend = job.other_comm("local", &json!({}))?;
    let bootstrap = Bootstrap { world_size: 1, ..Bootstrap::default() };
    let peers = Peers::new(backend.open(&bootstrap)?, "local", Duration::from_secs(1));

    let rows = random_rows(settings, opened.model.spec().vocabulary_size, tokens);
    let items: Vec<&Item> = rows.iter().collect();
    let items_per_row = vec![1; items.len()];
    let rows = BatchRows::new(&items, &items_per_row)?;
    let trainer = opened.trainer.clone();
    let micro_batches = || {
        let micro_batch = |_| MicroBatch {
            rows: Vec::new(),
            batch: trainer.collate(&rows).map(|batch| Some(Ahead::Batches(vec![batch]))),
        };
        (0..settings.trainer.gradient_accumulation_steps).map(micro_batch).map(Ok)
    };
    let objective = Objective::new(job, opened, Frozen::default());
    let mut learner = Learner::new(settings, updates, estimate.recompute, parameters, objective, optimizer, layout);
    let (mut times, mut loss, mut tokens, mut staged) = (Vec::new(), 0.0, 0, Staged::default());
    for update in 1..=updates {
        let begin = Instant::now();
        let name_rows = |_: &[RowLocation]| "random rows".to_owned();
        let outcome = learner.update(update, &peers, micro_batches(), &name_rows, &AtomicBool::new(false));
        if let Some(numbers) = outcome.map_err(Stop::into_failure)? {
            (loss, tokens, staged) = (numbers.loss, numbers.tokens, numbers.staged);
        }
        if update > 1 {
            times.push(begin.elapsed().as_secs_f64());
        }
    }
    let step = Spread::of(times);
    Ok(TrainFigures {
        tokens_per_s: tokens as f64 / step.s_median,
        step_s_median: step.s_median,
        step_s_min: step.s_min,
        step_s_max: step.s_max,
        peak_memory_bytes: metrics::peak_memory_bytes(),
        estimated_memory_bytes: estimate.peak(),
        parameters: learner.parameters.elements(),
        staged_to_device_bytes: staged.to_device,
        staged_to_host_bytes: staged.to_host,
        loss,
    })
}

/// The rows of a micro-batch: random tokens, all but the first one of a row trained.
pub(in crate::train) fn random_rows(settings: &Settings, vocabulary: usize, tokens: usize) -> Vec<Item> {
    let mut stream = Stream::new(settings.seed, "bench", 0);
    let mut row = || {
        let ids = (0..tokens).map(|_| stream.below(vocabulary as u64) as u32).collect();
        Item::of(ids, (0..tokens).map(|place| place > 0).collect())
    };
    (0..settings.trainer.batch_size).map(|_| row()).collect()
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
