//! The totals of a data set: how much is trained, cut, dropped and padded.

use std::fmt;

use indicatif::HumanCount;
use mdt_plugin_api::Item;
use serde::Serialize;

use crate::counted::counted;
use crate::data::{BadRow, Dataset, Plan, RowLocation, packing};

/// The maximum number of dropped rows that are named.
const NAMED: usize = 20;

/// The totals of all rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Totals {
    /// Rows with something to train.
    pub rows: usize,
    /// Rows of which each answer is a sequence of its own, and the number of these sequences.
    pub rows_by_answer: (usize, usize),
    /// Rows with nothing to train, which are left out.
    pub dropped: Vec<Dropped>,
    /// Rows that are longer than `trainer.max_seq_len` and left out, where `trainer.long_rows` does so.
    pub too_long: Vec<Dropped>,
    /// Rows with more tokens than `data.max_tokens`, which are left out.
    pub over_max_tokens: Vec<Dropped>,
    /// Rows that repeat an earlier one, which are left out where `data.deduplicate` is set.
    pub repeated: Vec<Dropped>,
    /// Rows that cannot be used, where `data.on_bad_row` skips them.
    pub bad: Vec<Bad>,
    /// What the trainer says of rows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Note>,
    /// Rows that were split into pieces, where it does that, and the pieces that are trained.
    pub split_rows: usize,
    /// The pieces of them that are trained.
    pub pieces: usize,
    /// Rows that were cut at `trainer.max_seq_len`.
    pub truncated_rows: usize,
    /// Tokens that were cut from them.
    pub truncated_tokens: u64,
    /// Tokens of all rows.
    pub tokens: u64,
    /// The trained tokens.
    pub supervised_tokens: u64,
    /// Their share of all tokens, from 0 to 1.
    pub supervised_share: f64,
    /// The rows that these are packed into, where `trainer.packing` does so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packed_rows: Option<usize>,
    /// Tokens per row.
    pub lengths: Lengths,
    /// Rows of a micro-batch.
    pub batch_size: usize,
    /// The share, from 0 to 1, of an epoch's micro-batches that is padding to the longest row of each.
    pub padding_share: f64,
    /// Updates of an epoch; none for rows of the evaluation.
    pub updates_per_epoch: Option<u64>,
    /// Updates of the whole run.
    pub updates: Option<u64>,
}

/// A row that was dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// Its source.
    pub source: String,
    /// Its number there.
    pub row: u64,
}

/// What the trainer says of rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    /// The sentence.
    pub note: String,
    /// The number of rows that it is said of.
    pub rows: usize,
    /// The first of them.
    pub first: Dropped,
}

/// A row that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bad {
    /// Where it is.
    #[serde(flatten)]
    pub row: Dropped,
    /// What is wrong with it.
    pub reason: String,
}

/// How long rows are, in tokens. A percentile is the length of the row at that place of the sorted rows (nearest rank).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Lengths {
    /// The mean length.
    pub mean: f64,
    /// The shortest row.
    pub shortest: usize,
    /// Half of the rows are at most this long.
    pub p50: usize,
    /// 90 % of them.
    pub p90: usize,
    /// 99 % of them.
    pub p99: usize,
    /// The longest row.
    pub longest: usize,
}

impl Totals {
    /// Totals of rows that are trained by this plan; padding is that of its first epoch.
    pub fn of_training(dataset: &Dataset, plan: &Plan) -> Self {
        let order = dataset.order(plan, 0);
        let ranks = |rows: &[usize]| {
            let batches = (0..plan.world_size).flat_map(|rank| plan.micro_batches(rows.len(), rank));
            batches.map(|own| dataset.batch_rows(&rows[own])).collect::<Vec<_>>()
        };
        let batches = order.chunks(plan.rows_per_update()).flat_map(ranks);
        Self {
            updates_per_epoch: plan.updates_per_epoch(),
            updates: Some(plan.total_updates()),
            ..Self::new(dataset, plan.batch_size, batches)
        }
    }

    /// Totals of rows that are evaluated in their order.
    pub fn of_evaluation(dataset: &Dataset, batch_size: usize) -> Self {
        let places: Vec<usize> = (0..dataset.rows().len()).collect();
        let batches = places.chunks(batch_size).map(|items| (items.to_vec(), vec![1; items.len()]));
        Self::new(dataset, batch_size, batches)
    }

    /// Totals of micro-batches, each given by its items and the number of them in each row.
    fn new(dataset: &Dataset, batch_size: usize, batches: impl Iterator<Item = (Vec<usize>, Vec<usize>)>) -> Self {
        let rows = dataset.rows();
        let lengths: Vec<usize> = rows.iter().map(Item::length).collect();
        let tokens = rows.iter().map(Item::tokens).sum::<usize>();
        let supervised = rows.iter().map(Item::supervised_tokens).sum::<usize>();
        let row_lengths = |(items, items_per_row): (Vec<usize>, Vec<usize>)| {
            let mut items = items.iter().map(|&item| &rows[item]);
            items_per_row
                .iter()
                .map(|&count| packing::length(items.by_ref().take(count).map(packing::lengths)))
                .collect()
        };
        let long = dataset.long_rows();
        let named = |(source, row): (&str, u64)| Dropped { source: source.to_owned(), row };
        let [over_max_tokens, repeated] = dataset.left_out().map(|rows| rows.into_iter().map(named).collect());
        let bad = |BadRow { location, reason }: &BadRow| Bad {
            row: named(dataset.place_of(location)),
            reason: reason.clone(),
        };
        let note = |(note, rows, first): (&str, usize, RowLocation)| Note {
            note: note.to_owned(),
            rows,
            first: named(dataset.place_of(&first)),
        };
        Self {
            rows: dataset.row_count(),
            rows_by_answer: dataset.by_answer(),
            dropped: dataset.dropped().map(named).collect(),
            too_long: dataset.too_long().map(named).collect(),
            over_max_tokens,
            repeated,
            bad: dataset.bad().iter().map(bad).collect(),
            notes: dataset.notes().iter().map(note).collect(),
            split_rows: long.split,
            pieces: long.pieces,
            truncated_rows: long.cut,
            truncated_tokens: long.cut_tokens,
            tokens: tokens as u64,
            supervised_tokens: supervised as u64,
            supervised_share: share(supervised, tokens),
            batch_size,
            padding_share: padding(batches.map(row_lengths)),
            packed_rows: dataset.packed_rows(),
            lengths: Lengths::of(lengths),
            updates_per_epoch: None,
            updates: None,
        }
    }
}

impl Lengths {
    /// The statistics of these lengths.
    pub fn of(mut lengths: Vec<usize>) -> Self {
        lengths.sort_unstable();
        let (Some(&shortest), Some(&longest)) = (lengths.first(), lengths.last()) else { return Self::default() };
        let percentile = |percent: usize| lengths[(lengths.len() * percent).div_ceil(100) - 1];
        Self {
            mean: lengths.iter().sum::<usize>() as f64 / lengths.len() as f64,
            shortest,
            p50: percentile(50),
            p90: percentile(90),
            p99: percentile(99),
            longest,
        }
    }
}

/// The part of these batches of rows of these lengths that is padding, each padded to its longest row.
fn padding(batches: impl Iterator<Item = Vec<usize>>) -> f64 {
    let (mut tokens, mut places) = (0, 0);
    for batch in batches {
        tokens += batch.iter().sum::<usize>();
        places += batch.len() * batch.iter().max().copied().unwrap_or_default();
    }
    share(places - tokens, places)
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |number: usize| HumanCount(number as u64);
        write!(f, "rows      {}", count(self.rows))?;
        for (dropped, why) in [
            (&self.dropped, "with nothing to train"),
            (&self.too_long, "because they are longer than trainer.max_seq_len"),
            (&self.over_max_tokens, "by data.max_tokens"),
            (&self.repeated, "that repeat earlier ones"),
        ] {
            if !dropped.is_empty() {
                let named = dropped.iter().take(NAMED).map(|Dropped { source, row }| format!("{source}:{row}"));
                let more = if dropped.len() > NAMED { ", …" } else { "" };
                let names = named.collect::<Vec<_>>().join(", ");
                write!(f, "; {} more dropped {why}: {names}{more}", count(dropped.len()))?;
            }
        }
        if let (rows @ 1.., sequences) = self.rows_by_answer {
            write!(f, "; {} of them with a sequence for each answer, {} in all", count(rows), count(sequences))?;
        }
        if !self.bad.is_empty() {
            write!(f, "\nbad       {} skipped", counted(self.bad.len(), "row"))?;
            for Bad { row: Dropped { source, row }, reason } in self.bad.iter().take(NAMED) {
                write!(f, "\n          {source}:{row}: {reason}")?;
            }
            if self.bad.len() > NAMED {
                write!(f, "\n          …")?;
            }
        }
        for Note { note, rows, first: Dropped { source, row } } in &self.notes {
            write!(f, "\nnote      {}, first {source}:{row}: {note}", counted(*rows, "row"))?;
        }
        let share = 100.0 * self.supervised_share;
        let supervised = HumanCount(self.supervised_tokens);
        write!(f, "\ntokens    {}, {supervised} of them trained ({share:.1} %)", HumanCount(self.tokens))?;
        let Lengths { mean, shortest, p50, p90, p99, longest } = self.lengths;
        write!(
            f,
            "\nlengths   shortest {shortest}, median {p50}, mean {mean:.1}, 90 % up to {p90}, 99 % up to {p99}, "
        )?;
        write!(f, "longest {longest}")?;
        if self.truncated_rows > 0 {
            let plural = if self.truncated_rows == 1 { "row" } else { "rows" };
            let lost = HumanCount(self.truncated_tokens);
            write!(
                f,
                "\ncut       {} {plural} at trainer.max_seq_len, losing {lost} tokens",
                count(self.truncated_rows)
            )?;
        }
        if self.split_rows > 0 {
            let plural = if self.split_rows == 1 { "row" } else { "rows" };
            let rows = count(self.split_rows);
            write!(
                f,
                "\nsplit     {rows} {plural} longer than trainer.max_seq_len into {} pieces",
                count(self.pieces)
            )?;
        }
        let padding = 100.0 * self.padding_share;
        let packed = if self.packed_rows.is_some() { "packed " } else { "" };
        if let Some(rows) = self.packed_rows {
            write!(f, "\npacked    into {} rows", count(rows))?;
        }
        write!(f, "\npadding   {padding:.1} % of micro-batches of {} {packed}rows", self.batch_size)?;
        if let (Some(per_epoch), Some(updates)) = (self.updates_per_epoch, self.updates) {
            write!(f, "\nupdates   {} per epoch, {} in all", HumanCount(per_epoch), HumanCount(updates))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_lengths_of_rows() {
        let lengths = Lengths::of((1..=100).rev().collect());
        assert_eq!((lengths.shortest, lengths.p50, lengths.p90, lengths.p99, lengths.longest), (1, 50, 90, 99, 100));
        assert_eq!(lengths.mean, 50.5);
        let one = Lengths::of(vec![7]);
        assert_eq!((one.shortest, one.p50, one.p99, one.longest), (7, 7, 7, 7));
        assert_eq!(Lengths::of(Vec::new()), Lengths::default());
    }

    #[test]
    fn padding_is_what_the_longest_row_of_each_batch_leaves_empty() {
        assert_eq!(padding([vec![2, 4], vec![3]].into_iter()), 2.0 / 11.0);
        assert_eq!(padding([vec![2], vec![4], vec![3]].into_iter()), 0.0);
        assert_eq!(padding(std::iter::empty()), 0.0);
    }
}
