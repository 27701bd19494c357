//! The evaluations of a run: which is the best, and how many followed without an improvement.
//!
//! All of it is a function of the held-out losses, which all ranks know, and part of every checkpoint. So all ranks, and
//! a run that resumes, make the same decisions.

use serde::{Deserialize, Serialize};

use crate::checkpoint::Evaluated;
use crate::counted::counted;

/// The evaluations of a run so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Evaluations {
    /// Fingerprint of the held-out rows; none if the job has none.
    data: Option<String>,
    /// The lowest held-out loss.
    pub(super) best: Option<Evaluated>,
    /// Whether the checkpoint of the best evaluation has been kept since it was written.
    best_is_kept: bool,
    /// The last evaluation that counts as an improvement for early stopping.
    improved: Option<Evaluated>,
    /// Evaluations since.
    pub(super) without_improvement: u32,
    /// Whether the evaluation before this checkpoint was interrupted and must be repeated at its resume.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) interrupted: bool,
}

impl Evaluations {
    /// No evaluations yet, for held-out rows with this fingerprint.
    pub(super) fn none_of(data: Option<String>) -> Self {
        Self { data, ..Self::default() }
    }

    /// Continues with the held-out rows with this fingerprint. False if they differ from those of the evaluations so far,
    /// whose losses cannot be compared: then there are none so far, and the next one is due. Held-out rows may be added or
    /// removed altogether.
    pub(super) fn continue_on(&mut self, data: Option<String>) -> bool {
        match (&self.data, data) {
            (Some(before), Some(now)) if *before != now => {
                *self = Self { interrupted: true, ..Self::none_of(Some(now)) };
                return false;
            }
            (None, now) => self.data = now,
            _ => {}
        }
        true
    }

    /// Adds the next evaluation.
    ///
    /// A loss is an improvement when it is more than `min_delta` below that of the last improvement, so that many small
    /// steps add up to one. A loss that is not finite never is.
    pub(super) fn add(&mut self, evaluated: Evaluated, min_delta: f64, keeps_best: bool) {
        let loss = evaluated.eval_loss;
        let below = |earlier: Option<Evaluated>, by: f64| {
            loss.is_finite() && earlier.is_none_or(|earlier| loss < earlier.eval_loss - by)
        };
        self.keep_best(keeps_best);
        if below(self.best.filter(|_| self.best_is_kept == keeps_best), 0.0) {
            (self.best, self.best_is_kept) = (Some(evaluated), keeps_best);
        }
        if below(self.improved, min_delta) {
            (self.improved, self.without_improvement) = (Some(evaluated), 0);
        } else {
            self.without_improvement += 1;
        }
    }

    /// Sets whether this run keeps the best checkpoint.
    pub(super) fn keep_best(&mut self, keeps_best: bool) {
        self.best_is_kept &= keeps_best;
    }

    /// The best evaluation, if its checkpoint is kept.
    pub(super) fn best_kept(&self) -> Option<Evaluated> {
        self.best.filter(|_| self.best_is_kept)
    }

    /// Why training stops early, as text for the user.
    pub(super) fn why_stopped(&self) -> String {
        let best = match self.best {
            Some(Evaluated { update, eval_loss }) => format!("the lowest was {eval_loss:.4} after update {update}"),
            None => "no evaluation had a finite loss".to_owned(),
        };
        let evaluations = counted(self.without_improvement as usize, "evaluation");
        format!("the held-out loss has not improved in {evaluations}; {best}")
    }

    /// Whether `patience` evaluations have passed without an improvement; never for a patience of 0.
    pub(super) fn should_stop(&self, patience: u32) -> bool {
        patience > 0 && self.without_improvement >= patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The evaluations with these losses after updates 1, 2, ….
    fn after(losses: &[f64], min_delta: f64, keeps_best: bool) -> Evaluations {
        let mut evaluations = Evaluations::default();
        for (update, &eval_loss) in (1..).zip(losses) {
            evaluations.add(Evaluated { update, eval_loss }, min_delta, keeps_best);
        }
        evaluations
    }

    #[test]
    fn the_best_is_the_first_of_the_lowest_finite_losses() {
        let best = |losses: &[f64]| after(losses, 0.0, true).best.map(|best| (best.update, best.eval_loss));
        assert_eq!(best(&[3.0, 2.0, 2.5, 2.0, f64::NAN, f64::NEG_INFINITY]), Some((2, 2.0)));
        assert_eq!(best(&[f64::NAN, 4.0]), Some((2, 4.0)));
        assert_eq!(best(&[f64::NAN, f64::INFINITY]), None);
    }

    #[test]
    fn evaluations_without_improvement_are_counted_and_one_that_is_starts_anew() {
        let waited = |losses: &[f64]| after(losses, 0.0, false).without_improvement;
        assert_eq!(waited(&[3.0]), 0);
        assert_eq!(waited(&[3.0, 3.0, 3.1, f64::NAN]), 3);
        assert_eq!(waited(&[3.0, 3.1, 2.9]), 0);
        assert!(after(&[3.0, 3.0, 3.0], 0.0, false).should_stop(2));
        assert!(!after(&[3.0, 3.0, 3.0], 0.0, false).should_stop(3));
        assert!(!after(&[3.0; 100], 0.0, false).should_stop(0));
    }

    #[test]
    fn steps_smaller_than_the_minimum_add_up_and_are_still_the_best() {
        // 0.4 below the last improvement, then 0.8, which counts.
        let evaluations = after(&[3.0, 2.6, 2.2], 0.5, true);
        assert_eq!((evaluations.without_improvement, evaluations.best.unwrap().update), (0, 3));
        let evaluations = after(&[3.0, 2.6], 0.5, true);
        assert_eq!((evaluations.without_improvement, evaluations.best.unwrap().update), (1, 2));
    }

    #[test]
    fn a_best_whose_checkpoint_was_not_kept_is_no_best_to_keep() {
        let mut standing = after(&[2.0], 0.0, false);
        assert_eq!(standing.best_kept(), None);
        standing.add(Evaluated { update: 2, eval_loss: 2.5 }, 0.0, true);
        assert_eq!(standing.best_kept().unwrap().update, 2);
        standing.keep_best(false);
        assert_eq!(standing.best_kept(), None);
    }

    proptest! {
        #[test]
        fn evaluations_are_read_back_from_json_bit_for_bit(losses in prop::collection::vec(any::<f64>(), 0..5)) {
            let evaluations = after(&losses, 0.0, true);
            let text = serde_json::to_string(&evaluations).unwrap();
            prop_assert_eq!(serde_json::from_str::<Evaluations>(&text).unwrap(), evaluations);
        }
    }
}
