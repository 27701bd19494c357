//! Evaluation: the loss of the held-out rows, in the same bits for every number of ranks, and what follows from it.

use std::time::Instant;

use serde_json::Value;

use super::Run;
use super::best::{Evaluated, Evaluations};
use super::gradient::{LOSS, METRICS, SUPERVISED, WEIGHT};
use crate::config::Settings;
use crate::data::Dataset;
use crate::exit::{Failure, Status};
use crate::metrics;

impl Run<'_> {
    /// Whether the held-out rows are to be looked at after this update.
    pub(super) fn evaluation_due(&self) -> bool {
        let every = match self.settings.trainer.eval_steps {
            0 => self.plan.updates_per_epoch(),
            steps => steps,
        };
        self.held_out.is_some() && (self.done.is_multiple_of(every) || self.done == self.plan.total_updates())
    }

    /// Looks at the held-out rows before the first update, where that is wanted.
    pub(super) fn evaluate_at_start(&mut self) -> Result<(), Failure> {
        // A run that was interrupted before its first update has the line already.
        if self.settings.trainer.eval_at_start && self.saved.is_none() {
            self.held_out_loss()?;
        }
        Ok(())
    }

    /// Looks at the held-out rows, and whether this is the best evaluation, or one too many without an improvement. All
    /// ranks call it and come to the same.
    pub(super) fn evaluate(&mut self) -> Result<(), Failure> {
        let evaluated = Evaluated { update: self.done, eval_loss: self.held_out_loss()? };
        let min_delta = self.settings.trainer.early_stopping_min_delta;
        self.evaluations.add(evaluated, min_delta, self.settings.checkpoint.keeps_best());
        // The last update ends the run anyway.
        if !self.stopped_early() || self.done == self.plan.total_updates() {
            return Ok(());
        }
        self.progress.note(&format!("stopping early after update {}: {}", self.done, self.evaluations.course()));
        let line = metrics::EarlyStop {
            step: self.done,
            epoch: self.plan.epochs_after(self.done),
            evaluations_without_improvement: self.evaluations.without_improvement,
            best_step: self.evaluations.best.map(|best| best.update),
            best_eval_loss: self.evaluations.best.map(|best| best.eval_loss),
        };
        self.metrics.as_mut().map_or(Ok(()), |metrics| metrics.early_stop(&line))
    }

    /// Whether training ends before its last update, because the held-out loss no longer falls.
    pub(super) fn stopped_early(&self) -> bool {
        self.evaluations.exhaust(self.settings.trainer.early_stopping_patience)
    }

    /// Whether no further update is to be made.
    pub(super) fn is_finished(&self) -> bool {
        self.done == self.plan.total_updates() || self.stopped_early()
    }

    /// Why there is nothing to do for a run that begins finished.
    pub(super) fn why_finished(&self) -> String {
        if self.done == self.plan.total_updates() {
            return format!("all {} updates are done already", self.done);
        }
        let course = self.evaluations.course();
        format!(
            "stopped early after update {}: {course}; a larger `trainer.early_stopping_patience` goes on",
            self.done
        )
    }

    /// The mean loss over the supervised tokens of the held-out rows, which the user is told.
    fn held_out_loss(&mut self) -> Result<f64, Failure> {
        let Some(held_out) = &self.held_out else {
            return Err(Failure::new(Status::Other, "there is nothing to evaluate"));
        };
        let begin = Instant::now();
        let batches = self.evaluate_batches(held_out)?;
        let mut sums = vec![0.0; batches.iter().map(Vec::len).max().unwrap_or(METRICS)];
        for batch in &batches {
            sums.iter_mut().zip(batch).for_each(|(sum, scalar)| *sum += scalar);
        }
        let eval_loss = sums[LOSS] / sums[WEIGHT];
        let names = self.objective.metric_names().into_iter().map(|name| format!("eval_{name}"));
        let line = metrics::Evaluation {
            step: self.done,
            epoch: self.plan.epochs_after(self.done),
            eval_loss,
            eval_perplexity: eval_loss.exp(),
            eval_tokens: sums[SUPERVISED] as u64,
            eval_s: begin.elapsed().as_secs_f64(),
            extra: names.zip(sums[METRICS..].iter().copied()).collect(),
        };
        let when = match self.done {
            0 => "before the first update".to_owned(),
            update => format!("after update {update}"),
        };
        let perplexity = shown(line.eval_perplexity);
        self.progress.note(&format!("held-out loss {when}: {eval_loss:.4}, perplexity {perplexity}"));
        if let Some(batch) = batches.iter().position(|batch| !batch[LOSS].is_finite()) {
            let rows = name_batch(held_out, self.plan.batch_size, batch);
            self.progress.note(&format!("warning: the held-out loss is not finite, first in {rows}"));
        }
        self.metrics.as_mut().map_or(Ok(()), |metrics| metrics.evaluation(&line))?;
        Ok(eval_loss)
    }

    /// The scalars of every batch of the held-out rows, in their order. Rank r of n computes batches r, r + n, r + 2n, …;
    /// which ones it has changes no bit of any.
    fn evaluate_batches(&self, held_out: &Dataset) -> Result<Vec<Vec<f64>>, Failure> {
        let size = self.plan.batch_size;
        let what = format!("the evaluation after update {}", self.done);
        let batches = held_out.rows().chunks(size);
        let count = batches.len();
        let mut own = Vec::new();
        for (batch, rows) in batches.enumerate().skip(self.peers.rank()).step_by(self.peers.world_size()) {
            let collated = self.trainer.collate(&rows.iter().collect::<Vec<_>>());
            let scalars = collated.and_then(|batch| self.objective.evaluate(&self.parameters, &batch));
            let failed = |error| Failure::from(error).at(format!("{what}, {}", name_batch(held_out, size, batch)));
            own.extend(scalars.map_err(failed)?);
        }
        let ranks = self.peers.gather_numbers(&what, own)?;
        in_order(&ranks, count)
            .ok_or_else(|| Failure::new(Status::Peer, "the ranks did not evaluate the same batches").at(what))
    }
}

/// The standing that a run begins with, which is that of its checkpoint where it resumes.
///
/// # Errors
/// The held-out rows are others than those of the evaluations so far.
pub(super) fn resume(
    progress: &Value,
    settings: &Settings,
    held_out: Option<&Dataset>,
) -> Result<Evaluations, Failure> {
    let data = held_out.map(Dataset::fingerprint);
    let Some(progress) = progress.get(PROGRESS) else {
        return Ok(Evaluations::none_of(data));
    };
    let mut evaluations: Evaluations = serde_json::from_value(progress.clone())
        .map_err(|error| Failure::new(Status::Storage, "the checkpoint's `progress` is damaged").because(error))?;
    if !evaluations.are_of(data.as_deref()) {
        return Err(Failure::configuration("the held-out data has changed since the checkpoint was written")
            .at(settings.data.eval.join(", "))
            .because("its evaluations cannot be compared with those that follow")
            .help("bring the data back; or start anew with `--set checkpoint.resume=never` and another `output_dir`"));
    }
    evaluations.keep_best(settings.checkpoint.keeps_best());
    Ok(evaluations)
}

/// The key of the evaluations in what a checkpoint keeps of the loop.
pub(super) const PROGRESS: &str = "evaluations";

/// Where the rows of a batch came from.
fn name_batch(held_out: &Dataset, batch_size: usize, batch: usize) -> String {
    let rows = batch * batch_size..held_out.rows().len().min((batch + 1) * batch_size);
    held_out.name_rows(&rows.collect::<Vec<_>>())
}

/// The scalars of `count` batches from what each of the ranks brought of them.
fn in_order(ranks: &[Vec<f64>], count: usize) -> Option<Vec<Vec<f64>>> {
    let all: usize = ranks.iter().map(Vec::len).sum();
    let width = all / count;
    let batch = |batch: usize| {
        let place = batch / ranks.len() * width;
        ranks[batch % ranks.len()].get(place..place + width).map(<[f64]>::to_vec)
    };
    (width >= METRICS && all == width * count).then(|| (0..count).map(batch).collect())?
}

/// A perplexity, which soon has more digits than anybody reads.
fn shown(perplexity: f64) -> String {
    if perplexity < 1e6 { format!("{perplexity:.3}") } else { format!("{perplexity:.2e}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What rank `rank` of `ranks` brings of batches whose scalars are their number and their place in it.
    fn brought(rank: usize, ranks: usize, count: usize, width: usize) -> Vec<f64> {
        let own = (0..count).skip(rank).step_by(ranks);
        own.flat_map(|batch| (0..width).map(move |scalar| (batch * 100 + scalar) as f64)).collect()
    }

    proptest! {
        #[test]
        fn batches_come_in_their_order_from_any_number_of_ranks(ranks in 1usize..9, count in 1usize..20, width in 4usize..7) {
            let brought: Vec<_> = (0..ranks).map(|rank| self::brought(rank, ranks, count, width)).collect();
            let alone = in_order(&[self::brought(0, 1, count, width)], count).unwrap();
            prop_assert_eq!(alone.len(), count);
            prop_assert_eq!(in_order(&brought, count).unwrap(), alone);
        }
    }

    #[test]
    fn numbers_that_are_no_whole_batches_are_refused() {
        assert_eq!(in_order(&[vec![0.0; 9]], 2), None);
        assert_eq!(in_order(&[vec![0.0; 8], vec![]], 2), None);
        assert_eq!(in_order(&[vec![]], 1), None);
    }

    #[test]
    fn a_perplexity_is_short_whatever_it_is() {
        assert_eq!(shown(2.0f64.exp()), "7.389");
        assert_eq!(shown(700f64.exp()), "1.01e304");
        assert_eq!(shown(f64::INFINITY), "inf");
    }
}
