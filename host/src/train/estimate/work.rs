//! What a process does with the model of a job, and the planning of it.

use mdt_plugin_api::{BatchRows, Item, Result};

use super::micro_batches;
use crate::config::{Packing, Settings};
use crate::data::{Data, Dataset, Encoder, Plan, Training};
use crate::exit::Failure;
use crate::generation::{Generator, Options, Unheard};
use crate::job::{Job, OpenedModel};
use crate::model::{self, Parameters, Randomness};
use crate::train::bench;
use crate::train::frozen::Frozen;
use crate::train::gradient::Objective;

/// What a process does with the model of a job.
#[derive(Clone, Copy)]
pub enum Work<'a> {
    /// It trains on rows, and evaluates those that are held out.
    Training(&'a Data),
    /// It makes updates on rows of so many random tokens.
    Updates { tokens: usize },
    /// It evaluates rows.
    Evaluation(&'a Dataset),
    /// It answers these prompts together; without prompts, any that come.
    Answers(&'a [Vec<u32>]),
}

impl Work<'_> {
    /// Whether there are gradients and states of an optimizer.
    pub(super) fn trains(self) -> bool {
        matches!(self, Self::Training(_) | Self::Updates { .. })
    }

    /// How many micro-batches an update of a rank has.
    pub(super) fn accumulation(self, settings: &Settings) -> usize {
        match self {
            Self::Training(data) => Plan::of(settings, data.rows).accumulation,
            _ => settings.trainer.gradient_accumulation_steps as usize,
        }
    }

    /// Does it on a device that plans.
    ///
    /// # Errors
    /// What the model or the trainer says to tensors without numbers.
    pub(super) fn plan(
        self,
        job: &Job,
        opened: OpenedModel,
        frozen: Frozen,
        parameters: Parameters,
        recompute: bool,
    ) -> Result<(), Failure> {
        if let Self::Answers(prompts) = self {
            let options = Options { max_tokens: 2, ..Options::default() };
            Generator::new(&opened, parameters)?.answers(prompts, &options, &mut Unheard)?;
            return Ok(());
        }
        let settings = &job.resolved.settings;
        // As the command does: what counts right tokens has logits.
        let counts_right = matches!(self, Self::Evaluation(_));
        let objective = Objective { counts_right, ..Objective::new(job, opened, frozen) };
        let training = model::Training { randomness: Randomness::default(), recompute };
        let plan_batch = |items: &[Item], items_per_row: &[usize]| -> Result<()> {
            let items: Vec<&Item> = items.iter().collect();
            let batch = objective.trainer.collate(&BatchRows::new(&items, items_per_row)?)?;
            objective.gradient(&parameters, &batch, training).map(drop)
        };
        // Twice where batches are alike: with what is kept of the first one.
        let plan_twice = |items: &[Item]| (0..2).try_for_each(|_| plan_batch(items, &vec![1; items.len()]));
        let size = settings.trainer.batch_size as usize;
        match self {
            Self::Training(data) => {
                match &data.train {
                    Training::Whole(dataset) => {
                        let plan = Plan::of(settings, data.rows);
                        for (items, items_per_row) in
                            micro_batches::planned(dataset, &plan, settings.comm.rank as usize)
                        {
                            let items = items.iter().map(|&item| dataset.rows()[item].clone()).collect();
                            plan_batch(&shortened(items, &objective, settings)?, &items_per_row)?;
                        }
                    }
                    Training::OnDemand(_) | Training::Streamed(_) => {
                        let encoder = Encoder::new(job, &objective.trainer, Some(objective.model.spec()));
                        let items = micro_batches::longest(job, &encoder)?;
                        if !items.is_empty() {
                            plan_twice(&items)?;
                        }
                    }
                }
                if let Some(held_out) = &data.held_out {
                    evaluate(&objective, &parameters, held_out, size)?;
                }
            }
            Self::Updates { tokens } => {
                plan_twice(&bench::random_rows(settings, objective.model.spec().vocabulary_size, tokens))?;
            }
            Self::Evaluation(rows) => evaluate(&objective, &parameters, rows, size)?,
            Self::Answers(_) => {}
        }
        Ok(())
    }
}

/// Items as they would be with these settings: they may have been cut at a length that is greater.
fn shortened(mut items: Vec<Item>, objective: &Objective, settings: &Settings) -> Result<Vec<Item>> {
    if settings.trainer.packing == Packing::None {
        items.iter_mut().try_for_each(|item| objective.items.enforce(item))?;
    }
    Ok(items)
}

/// Plans the evaluation of the longest held-out rows.
fn evaluate(objective: &Objective, parameters: &Parameters, held_out: &Dataset, size: usize) -> Result<()> {
    let longest = |rows: &&[Item]| rows.iter().map(Item::length).max().unwrap_or(0) * rows.len();
    let Some(rows) = held_out.rows().chunks(size).max_by_key(longest) else { return Ok(()) };
    let items: Vec<&Item> = rows.iter().collect();
    let batch = objective.trainer.collate(&BatchRows::new(&items, &vec![1; items.len()])?)?;
    objective.evaluate(parameters, &batch).map(drop)
}
