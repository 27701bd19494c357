//! Evaluation: the loss of the held-out rows, with the same bits for every number of ranks, and early stopping.

use std::time::Instant;

use mdt_plugin_api::{Event, HostServices, Item};
use serde_json::Value;

use super::accumulate::Sums;
use super::best::Evaluations;
use super::gradient::Objective;
use super::plugin_metrics::ByName;
use super::prepare::Place;
use super::stop::Stop;
use super::{Run, plugin_metrics};
use crate::checkpoint::Evaluated;
use crate::config::Settings;
use crate::data::Dataset;
use crate::exit::{Failure, Status};
use crate::metrics;
use crate::model::Parameters;
use crate::peers::Peers;
use crate::progress;

/// The numbers of every batch, in their order, and the metrics of all.
type AllBatches = (Vec<[f64; 4]>, ByName);

/// The loss of all held-out rows.
pub(super) struct HeldOutLoss {
    /// Mean over the supervised tokens.
    pub(super) loss: f64,
    /// `exp(loss)`, where the loss is that of tokens: that of a pair of answers, say, is no surprise at tokens.
    pub(super) perplexity: Option<f64>,
    /// Supervised tokens.
    pub(super) tokens: u64,
}

impl HeldOutLoss {
    /// That of these batches.
    pub(super) fn of(batches: &[[f64; 4]]) -> Self {
        let mut sums = Sums::of_numbers([0.0; 4]);
        batches.iter().for_each(|&batch| sums.add(Sums::of_numbers(batch)));
        let loss = sums.loss / sums.weight;
        let perplexity = (sums.weight == sums.supervised_tokens).then(|| libm::exp(loss));
        Self { loss, perplexity, tokens: sums.supervised_tokens as u64 }
    }
}

impl Run<'_> {
    /// Whether an evaluation is due after this update.
    pub(super) fn evaluation_due(&self) -> bool {
        let every = match self.settings().trainer.eval_steps {
            0 => self.rows.plan.updates_per_epoch().unwrap_or(u64::MAX),
            steps => steps,
        };
        self.rows.held_out.is_some() && (self.done.is_multiple_of(every) || self.done == self.rows.plan.total_updates())
    }

    /// Evaluates before the first update, where `trainer.eval_at_start` asks for it.
    pub(super) fn evaluate_at_start(&mut self) -> Result<(), Stop> {
        if self.settings().trainer.eval_at_start && self.output.saved.is_none() && self.held_out_loss()?.is_none() {
            return Err(self.interrupted());
        }
        Ok(())
    }

    /// Makes the evaluation that was interrupted when this run's checkpoint was written, and writes that again.
    pub(super) fn repeat_interrupted_evaluation(&mut self) -> Result<(), Stop> {
        if !std::mem::take(&mut self.evaluations.interrupted) || self.rows.held_out.is_none() {
            return Ok(());
        }
        self.evaluate()?;
        self.output.saved = None;
        self.save()
    }

    /// Evaluates, and decides whether this is the best evaluation and whether training stops early. All ranks call it and
    /// decide the same.
    pub(super) fn evaluate(&mut self) -> Result<(), Stop> {
        let Some(eval_loss) = self.held_out_loss()? else {
            self.evaluations.interrupted = true;
            return Err(self.interrupted());
        };
        let evaluated = Evaluated { update: self.done, eval_loss };
        let min_delta = self.settings().trainer.early_stopping_min_delta;
        self.evaluations.add(evaluated, min_delta, self.settings().checkpoint.keeps_best());
        // The last update ends the run anyway.
        if !self.stopped_early() || self.done == self.rows.plan.total_updates() {
            return Ok(());
        }
        self.output.progress.note(&format!(
            "stopping early after update {}: {}",
            self.done,
            self.evaluations.why_stopped()
        ));
        let line = metrics::EarlyStop {
            step: self.done,
            epoch: self.rows.plan.epochs_after(self.done),
            evaluations_without_improvement: self.evaluations.without_improvement,
            best_step: self.evaluations.best.map(|best| best.update),
            best_eval_loss: self.evaluations.best.map(|best| best.eval_loss),
        };
        Ok(self.output.write_line(Event::StoppedEarly, self.done, &line, &metrics::Extra::new())?)
    }

    /// Whether training stops before its last update, because the held-out loss no longer falls.
    pub(super) fn stopped_early(&self) -> bool {
        self.evaluations.should_stop(self.settings().trainer.early_stopping_patience)
    }

    /// Whether no update remains.
    pub(super) fn is_finished(&self) -> bool {
        self.done == self.rows.plan.total_updates() || self.stopped_early()
    }

    /// Why nothing remains to be done, for a run that was finished when it began.
    pub(super) fn why_finished(&self) -> String {
        if self.done == self.rows.plan.total_updates() {
            return format!("all {} updates are done already", self.done);
        }
        let reason = self.evaluations.why_stopped();
        format!(
            "stopped early after update {}: {reason}; a larger `trainer.early_stopping_patience` continues the run",
            self.done
        )
    }

    /// The mean loss over the supervised tokens of the held-out rows; writes its line. None if a rank was interrupted.
    fn held_out_loss(&mut self) -> Result<Option<f64>, Failure> {
        let begin = Instant::now();
        let Self { job, peers, learner, rows, output, done, .. } = self;
        let Some(held_out) = &rows.held_out else {
            return Err(Failure::new(Status::Other, "there is nothing to evaluate"));
        };
        let evaluated = learner.with_evaluation_weights(peers, *done, |learner| {
            let (objective, parameters) = (&learner.objective, &learner.parameters);
            let (size, after) = (rows.plan.batch_size, *done);
            let evaluation = Evaluation { objective, parameters, peers, held_out, size, after };
            evaluation.run(&|| job.services.cancelled())
        })?;
        output.tell_sample(&learner.objective, *done, true);
        let Some((batches, metrics)) = evaluated else { return Ok(None) };
        let HeldOutLoss { loss: eval_loss, perplexity, tokens } = HeldOutLoss::of(&batches);
        let line = metrics::Evaluation {
            step: *done,
            epoch: rows.plan.epochs_after(*done),
            eval_loss,
            eval_perplexity: perplexity,
            eval_tokens: tokens,
            eval_s: begin.elapsed().as_secs_f64(),
        };
        let extra = metrics.into_iter().map(|(name, value)| (format!("eval_{name}"), value)).collect();
        let when = match *done {
            0 => "before the first update".to_owned(),
            update => format!("after update {update}"),
        };
        let perplexity = line.eval_perplexity.map_or(String::new(), |number| format!(", perplexity {}", shown(number)));
        output.progress.note(&format!("held-out loss {when}: {eval_loss:.4}{perplexity}"));
        if let Some(batch) = batches.iter().position(|[loss, ..]| !loss.is_finite()) {
            let rows = name_batch(held_out, rows.plan.batch_size, batch);
            output.progress.note(&format!("warning: the held-out loss is not finite, first in {rows}"));
        }
        output.write_line(Event::Evaluated, self.done, &line, &extra)?;
        Ok(Some(eval_loss))
    }
}

/// One evaluation of the held-out rows.
pub(super) struct Evaluation<'a> {
    pub(super) objective: &'a Objective,
    pub(super) parameters: &'a Parameters,
    pub(super) peers: &'a Peers,
    pub(super) held_out: &'a Dataset,
    /// Rows of a batch.
    pub(super) size: usize,
    /// Updates that are done.
    pub(super) after: u64,
}

impl Evaluation<'_> {
    /// Computes the batches of the held-out rows. Rank r of n has batches r, r + n, r + 2n, …; which ones it has changes
    /// no bit of any. None if a rank was interrupted.
    pub(super) fn run(&self, cancelled: &dyn Fn() -> bool) -> Result<Option<AllBatches>, Failure> {
        let Self { objective, parameters, peers, held_out, size, after } = *self;
        let what = format!("the evaluation after update {after}");
        let batches = held_out.rows().chunks(size);
        let count = batches.len();
        let mut own = Vec::new();
        let mut interrupted = false;
        // A trainer may take long for its own numbers, and on one rank longer than on another.
        peers.together(&what, || {
            for (batch, rows) in batches.enumerate().skip(peers.rank()).step_by(peers.world_size()) {
                interrupted = cancelled();
                if interrupted {
                    break;
                }
                // The same random numbers in every evaluation, so that its losses can be compared.
                let place = Place { purpose: "evaluate", update: 0, number: batch as u64 };
                let items: Vec<&Item> = rows.iter().collect();
                let sums = objective.prepared(parameters, place, &items).and_then(|batch| {
                    let mut sums = objective.evaluate(parameters, &batch)?;
                    objective.add_own_numbers(parameters, place, &items, &mut sums)?;
                    Ok(sums)
                });
                let failed = |error| Failure::from(error).at(format!("{what}, {}", name_batch(held_out, size, batch)));
                own.push(sums.map_err(failed)?);
            }
            Ok(())
        })?;
        let numbers = std::iter::once(f64::from(u8::from(interrupted))).chain(own.iter().flat_map(Sums::numbers));
        let mut ranks = peers.gather_numbers(&what, numbers.collect())?;
        if ranks.iter_mut().map(|numbers| numbers.drain(..1).sum::<f64>()).sum::<f64>() > 0.0 {
            return Ok(None);
        }
        let metrics = plugin_metrics::of_evaluation(&own, count, &what, peers)?;
        let numbers = in_order(&ranks, count)
            .ok_or_else(|| Failure::new(Status::Peer, "the ranks did not evaluate the same batches").at(what))?;
        Ok(Some((numbers, metrics)))
    }
}

/// The evaluations that a run begins with: those of its checkpoint where it resumes.
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
    if !evaluations.continue_on(data) && settings.comm.rank == 0 {
        progress::note(
            "changed  the held-out rows are others: they are evaluated now, and earlier evaluations do not count",
        );
    }
    evaluations.keep_best(settings.checkpoint.keeps_best());
    Ok(evaluations)
}

/// The key of the evaluations in a checkpoint's `progress`.
pub(super) const PROGRESS: &str = "evaluations";

/// Where the rows of a batch came from.
fn name_batch(held_out: &Dataset, batch_size: usize, batch: usize) -> String {
    let rows = batch * batch_size..held_out.rows().len().min((batch + 1) * batch_size);
    held_out.name_rows(&rows.collect::<Vec<_>>())
}

/// The numbers of `count` batches from those of each rank.
fn in_order(ranks: &[Vec<f64>], count: usize) -> Option<Vec<[f64; 4]>> {
    let ranks: Vec<_> = ranks.iter().map(|numbers| numbers.as_chunks::<4>()).collect();
    let all: usize = ranks.iter().map(|(batches, _)| batches.len()).sum();
    let whole = all == count && ranks.iter().all(|(_, rest)| rest.is_empty());
    let batch = |batch: usize| ranks[batch % ranks.len()].0.get(batch / ranks.len()).copied();
    whole.then(|| (0..count).map(batch).collect())?
}

/// A perplexity as text: large ones as powers of ten.
pub(super) fn shown(perplexity: f64) -> String {
    if perplexity < 1e6 { format!("{perplexity:.3}") } else { format!("{perplexity:.2e}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The numbers of rank `rank` of `ranks`, for batches whose numbers are their own number and their place in it.
    fn numbers(rank: usize, ranks: usize, count: usize) -> Vec<f64> {
        let own = (0..count).skip(rank).step_by(ranks);
        own.flat_map(|batch| (0..4).map(move |number| (batch * 100 + number) as f64)).collect()
    }

    proptest! {
        #[test]
        fn batches_come_in_their_order_from_any_number_of_ranks(ranks in 1usize..9, count in 1usize..20) {
            let numbers: Vec<_> = (0..ranks).map(|rank| self::numbers(rank, ranks, count)).collect();
            let alone = in_order(&[self::numbers(0, 1, count)], count).unwrap();
            prop_assert_eq!(alone.len(), count);
            prop_assert_eq!(in_order(&numbers, count).unwrap(), alone);
        }
    }

    #[test]
    fn numbers_that_are_not_whole_batches_are_refused() {
        assert_eq!(in_order(&[vec![0.0; 9]], 2), None);
        assert_eq!(in_order(&[vec![0.0; 8], vec![]], 2), None);
        assert_eq!(in_order(&[vec![0.0; 3], vec![0.0; 5]], 2), None);
        assert_eq!(in_order(&[vec![]], 1), None);
    }

    #[test]
    fn a_perplexity_is_short_whatever_it_is() {
        assert_eq!(shown(2.0f64.exp()), "7.389");
        assert_eq!(shown(700f64.exp()), "1.01e304");
        assert_eq!(shown(f64::INFINITY), "inf");
    }
}
