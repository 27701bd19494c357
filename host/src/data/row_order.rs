//! The order of rows in an epoch, and which of them each micro-batch has: a pure function of the configuration, the
//! seed and the number of rows.

use std::ops::Range;

use crate::config::Settings;
use crate::random::Stream;

/// Which rows each update of a run trains on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Rows of an epoch.
    pub rows: usize,
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
}

impl Plan {
    /// The plan of a job with so many rows.
    pub fn of(settings: &Settings, rows: usize) -> Self {
        Self {
            rows,
            batch_size: settings.trainer.batch_size as usize,
            accumulation: settings.trainer.gradient_accumulation_steps as usize,
            world_size: settings.comm.world_size as usize,
            epochs: u64::from(settings.trainer.num_epochs),
            max_steps: settings.trainer.max_steps,
            shuffle: settings.data.shuffle.then_some(settings.seed),
        }
    }

    /// Updates of one epoch: every row is in exactly one of them, the last one may have fewer.
    pub fn updates_per_epoch(&self) -> u64 {
        self.rows.div_ceil(self.rows_per_update()) as u64
    }

    /// Updates of the whole run.
    pub fn total_updates(&self) -> u64 {
        self.max_steps.unwrap_or(self.epochs.saturating_mul(self.updates_per_epoch()))
    }

    /// The epoch, from 0, that update number `update`, from 1, is in.
    pub fn epoch_of(&self, update: u64) -> u64 {
        (update - 1) / self.updates_per_epoch()
    }

    /// How much of the run's epochs is done after an update: 1.5 in the middle of the second.
    pub fn epochs_after(&self, update: u64) -> f64 {
        if update == 0 {
            return 0.0;
        }
        let window = (update - 1) % self.updates_per_epoch() + 1;
        let rows = (window as usize).saturating_mul(self.rows_per_update()).min(self.rows);
        self.epoch_of(update) as f64 + rows as f64 / self.rows as f64
    }

    /// The order of rows in an epoch.
    pub fn order(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.rows).collect();
        if let Some(seed) = self.shuffle {
            Stream::new(seed, "order", epoch).shuffle(&mut order);
        }
        order
    }

    /// Where in its epoch's order the rows of a rank's micro-batches of an update are. There are as many micro-batches
    /// as accumulation asks for, or fewer where the rows run out; the last one may have fewer rows.
    pub fn micro_batches(&self, update: u64, rank: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let window = ((update - 1) % self.updates_per_epoch()) as usize;
        let rank_rows = self.batch_size.saturating_mul(self.accumulation);
        let start = window.saturating_mul(self.rows_per_update()).saturating_add(rank.saturating_mul(rank_rows));
        let end = start.saturating_add(rank_rows).min(self.rows);
        let batch_size = self.batch_size;
        (start.min(end)..end).step_by(batch_size).map(move |first| first..first.saturating_add(batch_size).min(end))
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
        Plan { rows, batch_size, accumulation, world_size: 1, epochs: 2, max_steps: None, shuffle: Some(7) }
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
        assert_ne!(plan.order(0), plan.order(1));
        assert_eq!(plan.order(1), plan.order(1));
    }

    proptest! {
        #[test]
        fn every_row_is_in_exactly_one_micro_batch_of_its_epoch(
            rows in 1usize..200, batch_size in 1usize..9, accumulation in 1usize..5, world_size in 1usize..4, epoch in 0u64..3,
        ) {
            let plan = Plan { world_size, ..plan(rows, batch_size, accumulation) };
            let first = epoch * plan.updates_per_epoch() + 1;
            let order = plan.order(epoch);
            let mut seen: Vec<usize> = (first..first + plan.updates_per_epoch())
                .flat_map(|update| (0..world_size).flat_map(move |rank| [(update, rank)]))
                .flat_map(|(update, rank)| plan.micro_batches(update, rank))
                .flat_map(|places| order[places].to_vec())
                .collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..rows).collect::<Vec<_>>());
        }

        #[test]
        fn splitting_micro_batches_over_ranks_changes_no_rows(rows in 1usize..200, batch_size in 1usize..9, update in 1u64..20) {
            let one = Plan { accumulation: 4, ..plan(rows, batch_size, 4) };
            let two = Plan { accumulation: 2, world_size: 2, ..plan(rows, batch_size, 2) };
            let halves = two.micro_batches(update, 0).chain(two.micro_batches(update, 1));
            prop_assert!(one.micro_batches(update, 0).eq(halves));
        }

        #[test]
        fn any_accumulation_beyond_the_rows_is_one_update_of_all_of_them(
            rows in 1usize..20, batch_size in 1usize..9, beyond in prop::sample::select(vec![40, u32::MAX as usize]),
        ) {
            let plan = plan(rows, batch_size, beyond);
            prop_assert_eq!((plan.updates_per_epoch(), plan.epochs_after(2)), (1, 2.0));
            prop_assert_eq!(plan.micro_batches(2, 0).collect::<Vec<_>>().len(), rows.div_ceil(batch_size));
            prop_assert!(plan.micro_batches(2, 1).next().is_none());
        }
    }
}
