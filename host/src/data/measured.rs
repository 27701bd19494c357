//! What is kept of rows whose tokens stay in the cache, once each was encoded: the lengths of their items, by which these are packed
//! and put into micro-batches. Some twenty bytes for a row, however long it is.

use super::bad_rows::BadRow;
use super::counts::Counts;
use super::dataset::Dataset;
use super::long_rows::Part;
use super::notes::Notes;
use super::packing;
use super::places::Places;
use super::row_location::RowLocation;
use super::row_order::Plan;
use crate::exit::{Failure, Status};

/// Where an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ItemAt {
    /// The place of its row among all rows.
    pub row: u32,
    /// Its number among the items of the row.
    pub number: u32,
}

/// The items of all rows, without their tokens.
#[derive(Default)]
pub(super) struct Measured {
    items: Vec<ItemAt>,
    /// The lengths of the sequences of each item.
    lengths: Vec<u32>,
    /// How many sequences an item has.
    sequences: usize,
    /// Whether an item is a later piece of a row that was split.
    is_later_piece: Vec<bool>,
    places: Places,
    counts: Counts,
    /// The number of rows before some were held out; none if that did not happen.
    split_from: Option<usize>,
    notes: Notes,
    bad: Vec<BadRow>,
}

impl Measured {
    /// Adds rows, of which the first has this place among all.
    ///
    /// # Errors
    /// Items have different sequences.
    pub fn add(&mut self, first_row: u64, rows: &Dataset) -> Result<(), Failure> {
        for (row, place) in (first_row..).zip(0..rows.places()) {
            for (number, (item, part)) in (0..).zip(rows.items_of(place)) {
                let lengths = packing::lengths(item);
                if self.items.is_empty() {
                    self.sequences = lengths.len();
                }
                if lengths.len() != self.sequences {
                    let message = format!("an item has {} sequences, others have {}", lengths.len(), self.sequences);
                    return Err(Failure::new(Status::Plugin, message).at(rows.name_place(place)));
                }
                self.items.push(ItemAt { row: row as u32, number });
                self.lengths.extend(lengths.into_iter().map(|length| length as u32));
                self.is_later_piece.push(part == Part::LaterPiece);
            }
            self.places.push(self.items.len());
        }
        self.counts.add(rows.counts());
        drop(self.notes.add(rows.notes()));
        self.bad.extend(rows.bad().iter().cloned());
        Ok(())
    }

    /// The number of rows with something to train.
    pub fn trainable(&self) -> usize {
        (0..self.places.len()).filter(|&place| !self.places.items_of(place).is_empty()).count()
    }

    /// Takes out the rows that are marked, of those with something to train. Returns their places among all rows.
    pub fn take_out(&mut self, marks: &[bool]) -> Vec<u64> {
        let before = std::mem::take(&mut self.places);
        let (mut rows, mut kept, mut marks) = (Vec::new(), Vec::new(), marks.iter());
        for place in 0..before.len() {
            let items = before.items_of(place);
            if !items.is_empty() && marks.next() == Some(&true) {
                rows.push(u64::from(self.items[items.start].row));
            } else {
                kept.extend(items);
                self.places.push(kept.len());
            }
        }
        self.keep(&kept);
        rows
    }

    /// Says that these rows, which were taken out, are held out.
    pub fn hold_out(&mut self, held_out: &Dataset) {
        self.counts = std::mem::take(&mut self.counts).without(&held_out.counts());
        self.split_from = held_out.split_from;
    }

    /// Gives each piece of a row that was split a place of its own.
    pub fn part_pieces(&mut self) {
        self.places = self.places.in_pieces(|item| self.is_later_piece[item]);
    }

    /// Packs the items, see [`Places::packed`].
    pub fn pack(&mut self, capacity: usize, seed: Option<u64>) {
        let (places, all) = self.places.packed(capacity, seed, |item| self.lengths_of(item));
        self.places = places;
        self.keep(&all);
    }

    /// Keeps these items, in this order.
    fn keep(&mut self, items: &[usize]) {
        let lengths = items.iter().flat_map(|&item| self.lengths[item * self.sequences..][..self.sequences].to_vec());
        self.lengths = lengths.collect();
        self.is_later_piece = items.iter().map(|&item| self.is_later_piece[item]).collect();
        self.items = items.iter().map(|&item| self.items[item]).collect();
    }

    fn lengths_of(&self, item: usize) -> Vec<usize> {
        let lengths = &self.lengths[item * self.sequences..][..self.sequences];
        lengths.iter().map(|&length| length as usize).collect()
    }

    /// The number of places.
    pub fn places(&self) -> usize {
        self.places.len()
    }

    /// The order of the places in an epoch.
    pub fn order(&self, plan: &Plan, epoch: u64) -> Vec<usize> {
        self.places.order(plan, epoch, |item| self.lengths_of(item))
    }

    /// The items of these places, and how many of them each row of a micro-batch has.
    pub fn batch_rows(&self, places: &[usize]) -> (Vec<ItemAt>, Vec<usize>) {
        let (items, items_per_row) = self.places.batch_rows(places);
        (items.into_iter().map(|item| self.items[item]).collect(), items_per_row)
    }

    /// Why no row has anything to train.
    pub fn nothing_to_train(&self, names: &[String]) -> Failure {
        super::nothing_to_train(names, &self.counts, self.places(), &self.bad)
    }

    /// What the trainer says of the rows.
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// Rows that cannot be used.
    pub fn bad(&self) -> &[BadRow] {
        &self.bad
    }

    /// Counts of rows and tokens, as a line for the user.
    pub fn summary(&self, name: &dyn Fn(&[RowLocation]) -> String) -> String {
        let packed = self.places.packed_rows(|item| self.lengths_of(item));
        self.counts.text(self.split_from, packed, name)
    }
}
