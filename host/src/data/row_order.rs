//! Which rows make which micro-batch: a pure function of the configuration, the seed and the number of rows.

use crate::config::Settings;
use crate::random::Stream;

/// The course of a training run.
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
        self.max_steps.unwrap_or(self.epochs * self.updates_per_epoch())
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
        let rows = (window as usize * self.rows_per_update()).min(self.rows);
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

    /// Where in its epoch's order the rows of micro-batch `micro` (over all ranks, from 0) of an update are; empty
    /// where the rows have run out.
    pub fn micro_batch(&self, update: u64, micro: usize) -> std::ops::Range<usize> {
        let window = ((update - 1) % self.updates_per_epoch()) as usize;
        let start = window * self.rows_per_update() + micro * self.batch_size;
        start.min(self.rows)..(start + self.batch_size).min(self.rows)
    }

    fn rows_per_update(&self) -> usize {
        self.batch_size * self.accumulation * self.world_size
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
                .flat_map(|update| (0..accumulation * world_size).flat_map(move |micro| [(update, micro)]))
                .flat_map(|(update, micro)| order[plan.micro_batch(update, micro)].to_vec())
                .collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..rows).collect::<Vec<_>>());
        }

        #[test]
        fn splitting_micro_batches_over_ranks_changes_no_rows(rows in 1usize..200, batch_size in 1usize..9, update in 1u64..20) {
            let one = Plan { accumulation: 4, ..plan(rows, batch_size, 4) };
            let two = Plan { accumulation: 2, world_size: 2, ..plan(rows, batch_size, 2) };
            for micro in 0..4 {
                prop_assert_eq!(one.micro_batch(update, micro), two.micro_batch(update, micro));
            }
        }
    }
}
