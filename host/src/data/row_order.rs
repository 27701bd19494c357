//! The order of rows in an epoch, and which of them each micro-batch has: a pure function of the configuration, the
//! seed and the number of rows.

use std::ops::Range;

use crate::config::Settings;
use crate::random::Stream;

/// Which rows each update of a run trains on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Rows of an epoch; none where that is not known, and then there are `max_steps`.
    pub rows: Option<usize>,
    /// Rows of a micro-batch.
    pub batch_size: usize,
    /// Micro-batches of an update, per rank.
    pub accumulation: usize,
    /// Number of ranks.
    pub world_size: usize,
    /// Number of passes over the rows, where `max_steps` is not given.
    pub epochs: u64,
    /// Number of updates, whatever the epochs.
    pub max_steps: Option<u64>,
    /// The seed of the orders; none keeps the rows as they come.
    pub shuffle: Option<u64>,
    /// The seed by which micro-batches of like length are shuffled; none keeps rows where their order has them.
    pub bucketing: Option<u64>,
}

/// Updates whose rows are put together anew by their lengths.
const BUCKETED: usize = 16;

impl Plan {
    /// The plan of a job with so many rows.
    pub fn of(settings: &Settings, rows: Option<usize>) -> Self {
        Self {
            rows,
            batch_size: settings.trainer.batch_size as usize,
            accumulation: settings.trainer.gradient_accumulation_steps as usize,
            world_size: settings.comm.world_size as usize,
            epochs: u64::from(settings.trainer.num_epochs),
            max_steps: settings.trainer.max_steps,
            shuffle: settings.data.shuffle.then_some(settings.seed),
            bucketing: settings.trainer.bucketing.then_some(settings.seed),
        }
    }

    /// Updates of one epoch, where it is known: every row is in exactly one of them, the last one may have fewer.
    pub fn updates_per_epoch(&self) -> Option<u64> {
        self.rows.map(|rows| rows.div_ceil(self.rows_per_update()) as u64)
    }

    /// Updates of the whole run.
    pub fn total_updates(&self) -> u64 {
        let of_epochs = || self.epochs.saturating_mul(self.updates_per_epoch().unwrap_or(0));
        self.max_steps.unwrap_or_else(of_epochs)
    }

    /// How much of the run's epochs is done after an update: 1.5 in the middle of the second. NaN where an epoch's number
    /// of rows is not known.
    pub fn epochs_after(&self, update: u64) -> f64 {
        let (Some(rows), Some(updates)) = (self.rows, self.updates_per_epoch()) else { return f64::NAN };
        if update == 0 {
            return 0.0;
        }
        let window = (update - 1) % updates + 1;
        let done = (window as usize).saturating_mul(self.rows_per_update()).min(rows);
        ((update - 1) / updates) as f64 + done as f64 / rows as f64
    }

    /// The order of so many rows in an epoch; `length` has that of each.
    pub fn order(&self, rows: usize, length: impl Fn(usize) -> usize, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..rows).collect();
        if let Some(seed) = self.shuffle {
            Stream::new(seed, "order", epoch).shuffle(&mut order);
        }
        if let Some(seed) = self.bucketing {
            let mut stream = Stream::new(seed, "buckets", epoch);
            for window in order.chunks_mut(self.rows_per_update().saturating_mul(BUCKETED)) {
                window.sort_by_cached_key(|&row| length(row));
                // A micro-batch that is not full stays where the rows run out.
                let mut batches: Vec<_> = window.chunks_exact(self.batch_size).map(<[usize]>::to_vec).collect();
                stream.shuffle(&mut batches);
                window.iter_mut().zip(batches.into_iter().flatten()).for_each(|(row, other)| *row = other);
            }
        }
        order
    }

    /// Where the rows of a rank's micro-batches are among the rows of an update, of which there are `rows`. There are as
    /// many micro-batches as accumulation asks for, or fewer where the rows run out; the last one may have fewer rows.
    pub fn micro_batches(&self, rows: usize, rank: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let own = self.own_rows(rank);
        let (start, end) = (own.start.min(rows), own.end.min(rows));
        let batch_size = self.batch_size;
        (start..end).step_by(batch_size).map(move |first| first..first.saturating_add(batch_size).min(end))
    }

    /// Where a rank's rows are among those of an update.
    pub fn own_rows(&self, rank: usize) -> Range<usize> {
        let rows = self.batch_size.saturating_mul(self.accumulation);
        let start = rank.saturating_mul(rows);
        start..start.saturating_add(rows)
    }

    /// Rows of one update, where it is not the last one of an epoch.
    pub fn rows_per_update(&self) -> usize {
        self.batch_size.saturating_mul(self.accumulation).saturating_mul(self.world_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plan(rows: usize, batch_size: usize, accumulation: usize) -> Plan {
        Plan {
            rows: Some(rows),
            batch_size,
            accumulation,
            world_size: 1,
            epochs: 2,
            max_steps: None,
            shuffle: Some(7),
            bucketing: None,
        }
    }

    #[test]
    fn the_number_of_updates_is_batches_by_accumulation_rounded_up() {
        assert_eq!(plan(10, 2, 2).total_updates(), 6);
        assert_eq!(plan(8, 2, 2).total_updates(), 4);
        assert_eq!(Plan { max_steps: Some(5), ..plan(8, 2, 2) }.total_updates(), 5);
    }

    #[test]
    fn epochs_have_orders_of_their_own() {
        let plan = plan(100, 2, 1);
        let order = |epoch| plan.order(100, |_| 1, epoch);
        assert_ne!(order(0), order(1));
        assert_eq!(order(1), order(1));
    }

    #[test]
    fn buckets_are_of_like_length_and_move_no_row_out_of_its_window() {
        let lengths: Vec<usize> = (0..150).map(|row| row * 7919 % 97).collect();
        let plain = plan(150, 4, 1);
        let bucketed = Plan { bucketing: Some(7), ..plain.clone() };
        let padding = |order: &[usize]| -> usize {
            let longest = |batch: &[usize]| batch.iter().map(|&row| lengths[row]).max().unwrap_or(0);
            order.chunks(4).map(|batch| batch.iter().map(|&row| longest(batch) - lengths[row]).sum::<usize>()).sum()
        };
        let (before, after) = (plain.order(150, |row| lengths[row], 0), bucketed.order(150, |row| lengths[row], 0));
        assert!(padding(&after) * 5 < padding(&before), "{} of {}", padding(&after), padding(&before));
        for (before, after) in before.chunks(64).zip(after.chunks(64)) {
            let sorted = |rows: &[usize]| rows.iter().copied().collect::<std::collections::BTreeSet<_>>();
            assert_eq!(sorted(before), sorted(after));
        }
        let first: Vec<usize> = after.chunks(4).take(16).map(|batch| lengths[batch[0]]).collect();
        assert!(!first.is_sorted(), "the micro-batches of a window come in a random order");
    }

    proptest! {
        #[test]
        fn every_row_is_in_exactly_one_micro_batch_of_its_epoch(
            rows in 1usize..200, batch_size in 1usize..9, accumulation in 1usize..5, world_size in 1usize..4, epoch in 0u64..3,
        ) {
            let plan = Plan { world_size, ..plan(rows, batch_size, accumulation) };
            let order = plan.order(rows, |_| 1, epoch);
            prop_assert_eq!(order.chunks(plan.rows_per_update()).len() as u64, plan.updates_per_epoch().unwrap());
            let mut seen: Vec<usize> = order
                .chunks(plan.rows_per_update())
                .flat_map(|rows| (0..world_size).flat_map(|rank| plan.micro_batches(rows.len(), rank)).map(|own| &rows[own]))
                .flatten()
                .copied()
                .collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..rows).collect::<Vec<_>>());
        }

        #[test]
        fn splitting_micro_batches_over_ranks_changes_no_rows(rows in 1usize..40, batch_size in 1usize..9) {
            let one = Plan { accumulation: 4, ..plan(rows, batch_size, 4) };
            let two = Plan { accumulation: 2, world_size: 2, ..plan(rows, batch_size, 2) };
            let halves = two.micro_batches(rows, 0).chain(two.micro_batches(rows, 1));
            prop_assert!(one.micro_batches(rows, 0).eq(halves));
        }

        #[test]
        fn any_accumulation_beyond_the_rows_is_one_update_of_all_of_them(
            rows in 1usize..20, batch_size in 1usize..9, beyond in prop::sample::select(vec![40, u32::MAX as usize]),
        ) {
            let plan = plan(rows, batch_size, beyond);
            prop_assert_eq!((plan.updates_per_epoch(), plan.epochs_after(2)), (Some(1), 2.0));
            prop_assert_eq!(plan.micro_batches(rows, 0).collect::<Vec<_>>().len(), rows.div_ceil(batch_size));
            prop_assert!(plan.micro_batches(rows, 1).next().is_none());
        }
    }
}
