//! `mdt-host bench optimizer`: how long an update of all weights takes, gradients given.

use std::fmt;

use rayon::prelude::*;
use serde::Serialize;

use super::Spread;
use crate::config;
use crate::exit::{Failure, Status};
use crate::job::Job;
use crate::metrics;
use crate::model;
use crate::train::layout::{CHUNK, GradientLayout};
use crate::train::optimizer::{OptimizerPlan, StatefulOptimizer};

/// The figures of [`optimizer`].
#[derive(Debug, Serialize)]
pub struct OptimizerFigures {
    #[serde(flatten)]
    pub time: Spread,
    pub parameters: usize,
    /// Bytes that an update reads and writes: weights and states, each read and written, and gradients.
    pub bytes: u64,
    pub gb_per_s: f64,
    /// A plain pass over as many bytes, which adds gradients to weights and to states, in turns with the updates.
    pub plain_pass: Spread,
    /// How much of that pass's speed an update has.
    pub share_of_plain_pass: f64,
    pub peak_memory_bytes: Option<u64>,
}

/// Updates the weights of a job's model so many times, after once that is not measured.
///
/// # Errors
/// What a run of the job would say; the optimizer's states are on the device.
pub fn optimizer(job: &Job, times: u32) -> Result<OptimizerFigures, Failure> {
    let settings = &job.resolved.settings;
    let opened = job.open_model(job.compute()?)?;
    opened.check_files()?;
    let plan = OptimizerPlan::new(job.optimizer()?, &settings.optimizer, &model::trained(&opened.parameters()))?;
    let layout = GradientLayout::of(&plan, &config::Comm::default(), false)?;
    let mut parameters = opened.weights()?;
    let state_bytes = plan.state_bytes(&layout.own());
    let mut optimizer = StatefulOptimizer::new(plan, &parameters, &settings.scheduler, u64::from(times) + 1, &layout)?;
    if optimizer.is_on_device() {
        let message = format!("the optimizer `{}` updates on the device", settings.optimizer.id);
        return Err(Failure::new(Status::Configuration, message)
            .because("its work is done when tensors are evaluated, with that of a whole update")
            .help("measure a whole update: `mdt-host bench train`"));
    }
    // Gradients of the size that clipping leaves, none of them 0.
    let numbers = |elements| (0..elements).map(|place| 1e-3 * ((place % 251) as f32 - 125.5)).collect();
    let mut gradients: Vec<Vec<f32>> = layout.pieces().iter().map(|piece| numbers(piece.elements.len())).collect();
    let elements = parameters.elements();
    let mut plain = PlainPass::new(elements, state_bytes as usize / size_of::<f32>());
    let (mut updates, mut passes) = (Vec::new(), Vec::new());
    for step in 0..=u64::from(times) {
        let gradient = layout.pieces().iter().zip(gradients.iter_mut().map(Vec::as_mut_slice)).collect();
        let update = super::seconds(|| optimizer.apply(&mut parameters, gradient, 1.0, step + 1))?;
        let pass = super::seconds(|| {
            plain.run();
            Ok::<_, Failure>(())
        })?;
        if step > 0 {
            updates.push(update);
            passes.push(pass);
        }
    }
    let (time, plain_pass) = (Spread::of(updates), Spread::of(passes));
    let bytes = (3 * elements * size_of::<f32>()) as u64 + 2 * state_bytes;
    Ok(OptimizerFigures {
        time,
        parameters: elements,
        bytes,
        gb_per_s: bytes as f64 / time.s_median / 1e9,
        plain_pass,
        share_of_plain_pass: plain_pass.s_median / time.s_median,
        peak_memory_bytes: metrics::peak_memory_bytes(),
    })
}

/// A pass over as many numbers as an update reads and writes, with hardly any arithmetic.
struct PlainPass {
    weights: Vec<f32>,
    gradient: Vec<f32>,
    states: Vec<f32>,
}

impl PlainPass {
    fn new(elements: usize, states: usize) -> Self {
        Self { weights: vec![1.0; elements], gradient: vec![1e-3; elements], states: vec![0.0; states] }
    }

    /// In chunks as an update has them, on as many threads.
    fn run(&mut self) {
        let add = |(sums, gradient): (&mut [f32], &[f32])| {
            sums.iter_mut().zip(gradient).for_each(|(sum, gradient)| *sum += gradient);
        };
        let gradient = &self.gradient;
        let per_weight = self.states.len() / self.weights.len().max(1);
        let states = self.states.par_chunks_mut((CHUNK * per_weight).max(1));
        self.weights.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK)).zip(states).for_each(
            |((weights, gradient), states)| {
                add((weights, gradient));
                states.chunks_mut(gradient.len()).for_each(|states| add((states, gradient)));
            },
        );
    }
}

impl fmt::Display for OptimizerFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { time, parameters, gb_per_s, plain_pass, share_of_plain_pass, .. } = self;
        writeln!(f, "update      {time}: {parameters} parameters, {gb_per_s:.1} GB/s")?;
        write!(f, "plain pass  {plain_pass}: an update has {:.0} % of its speed", 100.0 * share_of_plain_pass)
    }
}
