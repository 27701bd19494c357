//! Which micro-batches of a run are planned: those that need most, and some that come between.

use std::collections::HashSet;

use mdt_plugin_api::Item;

use crate::data::{Dataset, Encoder, Examples, Plan, packing};
use crate::exit::Failure;
use crate::job::Job;

/// The micro-batches whose sizes are looked at, from the first one on.
const LOOKED_AT: usize = 1 << 16;

/// How many are planned, if all have other sizes. A device keeps buffers of sizes that come again, so that one after another
/// they need more than the largest one alone.
const PLANNED: usize = 24;

/// The items of a micro-batch, and how many of them each of its rows has.
pub(super) type MicroBatch = (Vec<usize>, Vec<usize>);

/// The micro-batches of a rank that are planned, in the order in which they are: as in the run, and the largest once more, since
/// buffers of others are kept then.
pub(super) fn planned(dataset: &Dataset, plan: &Plan, rank: usize) -> Vec<MicroBatch> {
    let mut sizes: Vec<(Size, MicroBatch)> = Vec::new();
    let mut known = HashSet::new();
    for batch in all(dataset, plan, rank).take(LOOKED_AT) {
        let size = Size::of(dataset, &batch);
        if known.insert(size) {
            sizes.push((size, batch));
        }
    }
    let largest = [|size: &Size| size.places, |size: &Size| size.trained]
        .map(|by| (0..sizes.len()).rev().max_by_key(|&place| by(&sizes[place].0)));
    let between = (0..sizes.len()).step_by(sizes.len().div_ceil(PLANNED).max(1));
    let mut chosen: Vec<usize> = between.chain(largest.into_iter().flatten()).collect();
    chosen.sort_unstable();
    chosen.dedup();
    chosen.extend(largest.into_iter().flatten());
    chosen.into_iter().map(|place| sizes[place].1.clone()).collect()
}

/// A micro-batch of rows that stream, none of which is known yet: the first row, made as long as rows may be.
///
/// # Errors
/// The row cannot be read or encoded.
pub(super) fn longest(job: &Job, encoder: &Encoder) -> Result<Vec<Item>, Failure> {
    let trainer = &job.resolved.settings.trainer;
    let names = job.resolved.settings.data.train_names();
    let first = names.first().map(|name| Examples::open(job, name)?.next()).transpose()?.flatten();
    // A row that is refused here is met again.
    let items = first.and_then(|example| encoder.encode(&example).ok()).unwrap_or_default();
    let item = items.items.first().map(|item| stretched(item, trainer.max_seq_len as usize));
    Ok(item.into_iter().flat_map(|item| vec![item; trainer.batch_size as usize]).collect())
}

/// An item whose sequences have this length, by repeating them.
fn stretched(item: &Item, length: usize) -> Item {
    let mut item = item.clone();
    for sequence in &mut item.sequences {
        let trained = sequence.supervised_tokens() > 0;
        sequence.tokens = sequence.tokens.iter().copied().cycle().take(length).collect();
        sequence.supervised = (0..sequence.tokens.len()).map(|place| trained && place > 0).collect();
    }
    item
}

/// The micro-batches of a rank, update after update.
fn all<'a>(dataset: &'a Dataset, plan: &'a Plan, rank: usize) -> impl Iterator<Item = MicroBatch> + 'a {
    let (places, size) = (dataset.places(), plan.rows_per_update());
    let updates = places.div_ceil(size).max(1) as u64;
    let epochs = plan.total_updates().div_ceil(updates);
    (0..epochs).flat_map(move |epoch| {
        let order = dataset.order(plan, epoch);
        let of_update = move |rows: &[usize]| {
            let own = plan.micro_batches(rows.len(), rank);
            own.map(|own| dataset.batch_rows(&rows[own])).filter(|(items, _)| !items.is_empty()).collect::<Vec<_>>()
        };
        let of_epoch = (plan.total_updates() - epoch * updates).min(updates) as usize;
        order.chunks(size).take(of_epoch).flat_map(of_update).collect::<Vec<_>>()
    })
}

/// What the memory of a micro-batch depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Size {
    /// Places for tokens, padding included.
    places: usize,
    /// Tokens that are trained.
    trained: usize,
}

impl Size {
    fn of(dataset: &Dataset, (items, items_per_row): &MicroBatch) -> Self {
        let items: Vec<&Item> = items.iter().map(|&item| &dataset.rows()[item]).collect();
        let mut rest = items.as_slice();
        let rows = items_per_row.iter().map_while(|&count| rest.split_off(..count));
        let longest = rows.map(|row| packing::length(row.iter().map(|item| packing::lengths(item)))).max().unwrap_or(0);
        Self { places: items_per_row.len() * longest, trained: items.iter().map(|item| item.supervised_tokens()).sum() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_streams_is_taken_to_be_as_long_as_rows_may_be() {
        let item = Item::of(vec![1, 2, 3], vec![false, false, true]).with("other", vec![4], vec![false]);
        let item = stretched(&item, 5);
        assert_eq!(item.sequences[0].tokens, [1, 2, 3, 1, 2]);
        assert_eq!(item.sequences[0].supervised, [false, true, true, true, true]);
        assert_eq!((item.sequences[1].tokens.len(), item.sequences[1].supervised_tokens()), (5, 0));
    }
}
