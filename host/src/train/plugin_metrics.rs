//! Metrics of plugins in the lines of metrics.jsonl, matched by name over micro-batches, updates and ranks.
//!
//! A metric that a trainer returns with its loss is a sum and a weight. Both are added over the update's micro-batches, or
//! the batches of an evaluation, on all ranks, and then divided. A number that a plugin reports through the host's services is averaged over all reports
//! since the line before, of all ranks; so lines that are further apart (`metrics.every`) drop none.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::accumulate::{Accumulator, Gradient, Partial, Sums};
use crate::exit::Failure;
use crate::peers::Peers;
use crate::progress;

/// Numbers by the name of their metric.
pub(super) type ByName = BTreeMap<String, f64>;

/// Sums and weights by the name of their metric.
pub(super) type Weighted = BTreeMap<String, [f64; 2]>;

/// Metrics of plugins between two lines.
#[derive(Default)]
pub(super) struct PluginMetrics {
    reports: Reports,
    /// Metrics that are not finite and were named in a warning.
    warned: BTreeSet<String>,
}

/// Reports by name: their sum and their number.
type Reports = BTreeMap<String, (f64, u64)>;

impl PluginMetrics {
    /// Adds what plugins of this rank have reported.
    pub(super) fn add_reports(&mut self, mut reports: Vec<(String, f64)>) {
        // Threads report in any order; the sum has one.
        reports.sort_by(|(a, x), (b, y)| a.cmp(b).then(x.total_cmp(y)));
        for (name, value) in reports {
            add_report(&mut self.reports, name, (value, 1));
        }
    }

    /// The metrics of the line of this update, from all ranks, and the seconds that each rank took for its own part of it, of
    /// which this one's are `own_part`. All ranks call it.
    pub(super) fn line(
        &mut self,
        update: u64,
        trainer: Weighted,
        own_part: f64,
        peers: &Peers,
    ) -> Result<(ByName, Vec<f64>), Failure> {
        let what = format!("the metrics of update {update}");
        let reports = std::mem::take(&mut self.reports).into_iter();
        let reports = reports.map(|(name, (sum, count))| (name, (sum.to_bits(), count))).collect();
        let ranks = peers.gather_values(&what, &RankMetrics { trainer: bits(&trainer), reports, own_part })?;
        let own_parts = ranks.iter().map(|rank| rank.own_part).collect();
        let (mut sums, mut reports) = (Accumulator::default(), Reports::new());
        for rank in ranks {
            let metrics = numbers(rank.trainer);
            sums.push(Partial { gradient: Gradient::Host(Vec::new()), sums: Sums { metrics, ..Sums::NONE } })?;
            for (name, (sum, count)) in rank.reports {
                add_report(&mut reports, name, (f64::from_bits(sum), count));
            }
        }
        let mut line: ByName = reports.into_iter().map(|(name, (sum, count))| (name, sum / count as f64)).collect();
        line.extend(divided(sums.finish_numbers(Sums::NONE).metrics));
        for (name, value) in line.iter().filter(|(_, value)| !value.is_finite()) {
            if peers.is_first() && self.warned.insert(name.clone()) {
                progress::note(&format!(
                    "warning: the metric `{name}` is {value} in update {update}; metrics.jsonl has null for numbers that \
                     are not finite"
                ));
            }
        }
        Ok((line, own_parts))
    }
}

fn divided(metrics: Weighted) -> ByName {
    metrics.into_iter().map(|(name, [sum, weight])| (name, sum / weight)).collect()
}

fn add_report(reports: &mut Reports, name: String, (sum, count): (f64, u64)) {
    let entry = reports.entry(name).or_insert((-0.0, 0));
    *entry = (entry.0 + sum, entry.1 + count);
}

/// The metrics of the batches of an evaluation, added in the order of the batches. Rank r of n has batches r, r + n, …;
/// all ranks call it.
pub(super) fn of_evaluation(own: &[Sums], count: usize, what: &str, peers: &Peers) -> Result<ByName, Failure> {
    let own: Vec<_> = own.iter().map(|sums| bits(&sums.metrics)).collect();
    let mut ranks = peers.gather_values(what, &own)?;
    let mut all = Sums::NONE;
    for batch in 0..count {
        let (rank, place) = (batch % ranks.len(), batch / ranks.len());
        let metrics = ranks[rank].get_mut(place).map(std::mem::take).unwrap_or_default();
        all.add(Sums { metrics: numbers(metrics), ..Sums::NONE });
    }
    Ok(divided(all.metrics))
}

/// One rank's metrics on their way to the others. JSON has no NaN, so numbers are their bits.
#[derive(Serialize, Deserialize)]
struct RankMetrics {
    trainer: BTreeMap<String, [u64; 2]>,
    reports: BTreeMap<String, (u64, u64)>,
    /// Seconds of its own part of the update.
    own_part: f64,
}

fn bits(metrics: &Weighted) -> BTreeMap<String, [u64; 2]> {
    metrics.iter().map(|(name, values)| (name.clone(), values.map(f64::to_bits))).collect()
}

fn numbers(bits: BTreeMap<String, [u64; 2]>) -> Weighted {
    bits.into_iter().map(|(name, bits)| (name, bits.map(f64::from_bits))).collect()
}
