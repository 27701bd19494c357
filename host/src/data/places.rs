//! Which items each place has: an order counts places, and a micro-batch is made of some of them.

use std::ops::Range;

use super::packing;
use super::row_order::Plan;
use crate::random::Stream;

/// The rows whose items are packed together.
const PACKED_TOGETHER: usize = 1024;

/// The items of each place, which follow each other. A place is a row that was read, a piece of one, or a row that items are packed
/// into.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// For each place, the number of items up to and with its own.
    ends: Vec<usize>,
    /// Whether the items of a place are packed into one row of a micro-batch.
    is_packed: bool,
}

/// Rows that items are packed into.
pub(super) struct PackedRows {
    pub rows: usize,
    /// The tokens of the longest.
    pub longest: usize,
    /// The tokens of all.
    pub tokens: usize,
}

impl Places {
    /// Adds a place, up to and with this number of items.
    pub fn push(&mut self, end: usize) {
        self.ends.push(end);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether the items of a place are packed into one row of a micro-batch.
    pub fn are_packed(&self) -> bool {
        self.is_packed
    }

    /// The rows that items are packed into, where they are.
    pub fn packed_rows(&self, lengths: impl Fn(usize) -> Vec<usize>) -> Option<PackedRows> {
        let of_places = (0..self.len()).map(|place| self.length(place, &lengths));
        self.is_packed.then(|| PackedRows {
            rows: self.len(),
            longest: of_places.clone().max().unwrap_or(0),
            tokens: of_places.sum(),
        })
    }

    /// The items of a place, as a range of all.
    pub fn items_of(&self, place: usize) -> Range<usize> {
        let start = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        start..self.ends[place]
    }

    /// The place of an item.
    pub fn of_item(&self, item: usize) -> usize {
        self.ends.partition_point(|&end| end <= item)
    }

    /// The items of these places, and how many of them each row of a micro-batch has.
    pub fn batch_rows(&self, places: &[usize]) -> (Vec<usize>, Vec<usize>) {
        let items: Vec<usize> = places.iter().flat_map(|&place| self.items_of(place)).collect();
        let items_per_row = match self.is_packed {
            true => places.iter().map(|&place| self.items_of(place).len()).collect(),
            false => vec![1; items.len()],
        };
        (items, items_per_row)
    }

    /// The length of the longest row that the items of a place are in; `lengths` has those of the sequences of an item.
    pub fn length(&self, place: usize, lengths: impl Fn(usize) -> Vec<usize>) -> usize {
        let items = self.items_of(place).map(lengths);
        if self.is_packed { packing::length(items) } else { items.flatten().max().unwrap_or(0) }
    }

    /// The order of the places in an epoch.
    pub fn order(&self, plan: &Plan, epoch: u64, lengths: impl Fn(usize) -> Vec<usize>) -> Vec<usize> {
        plan.order(self.len(), |place| self.length(place, &lengths), epoch)
    }

    /// The same with a place for each item that is a later piece of a row, so that a micro-batch has no more rows than others.
    pub fn in_pieces(&self, is_later_piece: impl Fn(usize) -> bool) -> Self {
        let mut ends = Vec::new();
        for place in 0..self.len() {
            let own = self.items_of(place);
            ends.extend(own.clone().skip(1).filter(|&item| is_later_piece(item)));
            ends.push(own.end);
        }
        Self { ends, is_packed: self.is_packed }
    }

    /// Packs the items into rows of at most `capacity` tokens, once for all epochs: so each of them has as many updates. Items are
    /// packed together as their places come, or in an order by `seed`; the result depends on nothing else but their lengths. Returns
    /// the items in the order of the rows, too.
    pub fn packed(
        &self,
        capacity: usize,
        seed: Option<u64>,
        lengths: impl Fn(usize) -> Vec<usize>,
    ) -> (Self, Vec<usize>) {
        let mut order: Vec<usize> = (0..self.len()).collect();
        if let Some(seed) = seed {
            Stream::new(seed, "packing", 0).shuffle(&mut order);
        }
        let (mut all, mut ends) = (Vec::new(), Vec::new());
        for window in order.chunks(PACKED_TOGETHER) {
            let items: Vec<usize> = window.iter().flat_map(|&place| self.items_of(place)).collect();
            let own: Vec<_> = items.iter().map(|&item| lengths(item)).collect();
            for row in packing::best_fit(&own, capacity) {
                all.extend(row.into_iter().map(|item| items[item]));
                ends.push(all.len());
            }
        }
        (Self { ends, is_packed: true }, all)
    }
}
