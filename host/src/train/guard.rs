//! The guard: refuses an update that would spoil the weights, before anything is applied. All ranks decide the same, from
//! the same sums.

use super::accumulate::Sums;
use super::stop::Stop;
use crate::data::RowLocation;
use crate::exit::{Failure, Status};
use crate::finite::all_finite;
use crate::model::Parameters;
use crate::peers::Peers;

/// What is wrong with an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The loss or gradient of a micro-batch is not finite.
    NotFinite,
    /// A weight is negative or not finite.
    Weight,
    /// All weights are 0.
    NoWeight,
    /// Every micro-batch is finite, their sum or mean is not.
    Overflow,
}

/// What this rank has seen of an update's micro-batches.
#[derive(Default)]
pub(super) struct Guard {
    rows: Vec<RowLocation>,
    rows_not_finite: Vec<RowLocation>,
    /// Weights that are not positive numbers, with the rows of their micro-batches.
    weights: Vec<(f64, Vec<RowLocation>)>,
}

impl Guard {
    /// Looks at a micro-batch of these rows. Metrics may be anything: training does not depend on them.
    pub(super) fn inspect(&mut self, rows: &[RowLocation], sums: &Sums, gradient_is_finite: bool) {
        self.rows.extend(rows);
        if !(gradient_is_finite && sums.loss.is_finite()) {
            self.rows_not_finite.extend(rows);
        }
        let weight = sums.weight;
        if !(weight.is_finite() && weight > 0.0) {
            self.weights.push((weight, rows.to_vec()));
        }
    }

    /// What is wrong, as numbers to be summed over ranks: rows that are not finite, weights that are negative or not
    /// finite. A weight of zero is allowed where others are not.
    pub(super) fn flags(&self) -> [f64; 2] {
        let weights = self.weights.iter().filter(|(weight, _)| *weight != 0.0).count();
        [self.rows_not_finite.len() as f64, weights as f64]
    }

    /// Whether an update with these sums over all ranks may be applied. `factor` is what its gradient will be
    /// multiplied by.
    ///
    /// # Errors
    /// Status 6 for numbers that are not finite, 3 for a weight that no trainer should return; the same on all ranks.
    pub(super) fn check(
        &self,
        context: &Context<'_>,
        sums: &Sums,
        flags: [f64; 2],
        factor: Option<f32>,
    ) -> Result<f32, Stop> {
        let fault = match factor {
            _ if flags[0] > 0.0 || !sums.loss.is_finite() => Fault::NotFinite,
            _ if flags[1] > 0.0 || !sums.weight.is_finite() => Fault::Weight,
            _ if sums.weight <= 0.0 => Fault::NoWeight,
            None => Fault::Overflow,
            Some(factor) => return Ok(factor),
        };
        Err(match self.refuse(context, fault) {
            Ok(failure) => Stop::Together(failure),
            Err(failure) => Stop::Alone(failure),
        })
    }

    /// The failure, which names the rows of all ranks.
    fn refuse(&self, context: &Context<'_>, fault: Fault) -> Result<Failure, Failure> {
        let Context { update, trainer, parameters, peers, name_rows } = context;
        let (rows, status, message, help) = match fault {
            Fault::NotFinite => (
                name_rows(&self.rows_not_finite),
                Status::NonFinite,
                format!("the loss or gradient of update {update} is not finite"),
                "lower `optimizer.learning_rate`, lengthen `scheduler.warmup_steps`, or look at these rows",
            ),
            Fault::Weight | Fault::NoWeight => {
                let weights = self.weights.iter().filter(|(weight, _)| (*weight == 0.0) == (fault == Fault::NoWeight));
                let named = weights.map(|(weight, rows)| format!("weight {weight} of {}", name_rows(rows)));
                let which =
                    if fault == Fault::Weight { "a weight that is negative or not finite" } else { "no weight" };
                let message = format!("the trainer `{trainer}` gave losses of update {update} {which}");
                let help = "the weight of a loss is its number of supervised tokens: report this to the author of the \
                            trainer";
                (named.collect::<Vec<_>>().join("; "), Status::Plugin, message, help)
            }
            Fault::Overflow => (
                name_rows(&self.rows),
                Status::NonFinite,
                format!("the gradients of update {update} are finite, but their sum or mean overflows"),
                "look at these rows; if the loss was growing before, lower `optimizer.learning_rate`",
            ),
        };
        let all = peers.gather_texts("the rows that the update was refused for", rows)?;
        let named = all.iter().enumerate().filter(|(_, rows)| !rows.is_empty()).map(|(rank, rows)| match all.len() {
            1 => rows.clone(),
            _ => format!("rank {rank}, {rows}"),
        });
        let before = match update {
            1 => "those that training began with".to_owned(),
            update => format!("those after update {}", update - 1),
        };
        let failure = named
            .fold(Failure::new(status, message), Failure::at)
            .because(format!("the update was not applied: the weights are {before}"));
        let not_finite = parameters.with_arrays(|arrays| {
            Ok(arrays.iter().find(|array| !all_finite(array.data)).map(|array| array.name.to_owned()))
        })?;
        Ok(match not_finite {
            Some(name) => failure
                .because(format!("`{name}` was not finite before it"))
                .help("lower `optimizer.learning_rate` or lengthen `scheduler.warmup_steps`"),
            None => failure.help(help),
        })
    }
}

/// What the guard's messages name.
pub(super) struct Context<'a> {
    pub(super) update: u64,
    /// The component that the losses come from.
    pub(super) trainer: &'a str,
    pub(super) parameters: &'a Parameters,
    pub(super) peers: &'a Peers,
    /// Rows as `train.jsonl rows 3, 17`.
    pub(super) name_rows: &'a dyn Fn(&[RowLocation]) -> String,
}
