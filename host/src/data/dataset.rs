//! Rows as tokens, and the source and row number of each.
//!
//! Every row that was read has a place, in which there are its items: none where nothing in it is trained. Orders,
//! schedules and resumes count places, so that what a row becomes moves no other row. Where items are packed, they count
//! packed rows.

use std::collections::{BTreeMap, HashSet};

use mdt_plugin_api::{Error, Example, Item};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::bad_rows::BadRow;
use super::counts::Counts;
use super::long_rows::{Encoded, LeftOut, LongRows, Part};
use super::notes::Notes;
use super::places::Places;
use super::row_location::{self, RowLocation};
use super::row_order::Plan;
use super::{packing, split};
use crate::checksum;

/// Rows that were read whole, as items: a row may have become several.
pub struct Dataset {
    /// The items of all rows.
    pub(super) rows: Vec<Item>,
    /// The row of each item.
    pub(super) locations: Vec<RowLocation>,
    /// What each item is of its row.
    parts: Vec<Part>,
    /// The items of each place.
    places: Places,
    /// For each row, the checksum of its values.
    checksums: Vec<[u8; 32]>,
    /// The checksum of what turns rows into tokens.
    tokenizer: String,
    pub(super) sources: Vec<String>,
    /// Rows without any token to train.
    pub(super) dropped: Vec<RowLocation>,
    /// Rows that were left out because they are too long.
    pub(super) too_long: Vec<RowLocation>,
    /// How many sequences the rows have of which the trainer made several.
    several: BTreeMap<RowLocation, usize>,
    /// Rows that were left out by `data.max_tokens`.
    over_max_tokens: Vec<RowLocation>,
    /// Rows that were left out because they repeat earlier ones.
    repeated: Vec<RowLocation>,
    /// Rows that cannot be used.
    pub(super) bad: Vec<BadRow>,
    /// The number of rows before some were held out; none if that did not happen.
    pub(super) split_from: Option<usize>,
}

impl Dataset {
    /// A data set of these sources without rows.
    pub(super) fn empty(sources: &[String], tokenizer: &str) -> Self {
        Self {
            rows: Vec::new(),
            locations: Vec::new(),
            parts: Vec::new(),
            places: Places::default(),
            checksums: Vec::new(),
            tokenizer: tokenizer.to_owned(),
            sources: sources.to_vec(),
            dropped: Vec::new(),
            too_long: Vec::new(),
            several: BTreeMap::new(),
            over_max_tokens: Vec::new(),
            repeated: Vec::new(),
            bad: Vec::new(),
            split_from: None,
        }
    }

    /// Adds a row, which has this location and these items.
    pub(super) fn push(&mut self, location: RowLocation, row: &Result<Example, Error>, encoded: Encoded) {
        self.checksums.push(row.as_ref().map_or([0; 32], checksum_of));
        self.push_encoded(location, encoded);
    }

    /// The same without a checksum, for rows that are in a cache.
    pub(super) fn push_encoded(&mut self, location: RowLocation, encoded: Encoded) {
        let Encoded { items, parts, left_out } = encoded;
        match left_out {
            Some(LeftOut::TooLong) => self.too_long.push(location),
            Some(LeftOut::MaxTokens) => self.over_max_tokens.push(location),
            None if items.is_empty() => self.dropped.push(location),
            None => {}
        }
        let sequences = parts.iter().filter(|&&part| part != Part::LaterPiece).count();
        if sequences > 1 {
            self.several.insert(location, sequences);
        }
        self.locations.extend(items.iter().map(|_| location));
        self.rows.extend(items);
        self.parts.extend(parts);
        self.places.push(self.rows.len());
    }

    /// Adds the place of a row that cannot be used.
    pub(super) fn push_bad(&mut self, location: RowLocation, error: &Error) {
        self.checksums.push([0; 32]);
        self.bad.push(BadRow::new(location, error));
        self.places.push(self.rows.len());
    }

    /// The same without the items of rows that have those of an earlier one, `known` ones included; the places of these rows stay.
    #[must_use]
    pub(super) fn deduplicated(self, known: &mut Known) -> Self {
        let (places, rows, locations, parts) = Default::default();
        let mut whole = Self { places, rows, locations, parts, ..self };
        let mut items = self.rows.into_iter().zip(self.locations).zip(self.parts);
        for place in 0..self.places.len() {
            let own: Vec<_> = items.by_ref().take(self.places.items_of(place).len()).collect();
            match own.first() {
                Some(((_, location), _)) if !known.insert(content_of(own.iter().map(|((item, _), _)| item))) => {
                    whole.repeated.push(*location);
                }
                _ => {
                    for ((item, location), part) in own {
                        whole.rows.push(item);
                        whole.locations.push(location);
                        whole.parts.push(part);
                    }
                }
            }
            whole.places.push(whole.rows.len());
        }
        whole
    }

    /// Splits off `count` rows, drawn by `seed`; both parts keep the order of the rows. Rows with nothing to train stay with
    /// the first part.
    pub(super) fn split(self, count: usize, seed: u64) -> (Self, Self) {
        let total = Some(self.trainable());
        let mut marks = split::held_out(self.trainable(), count, seed).into_iter();
        let empty = || Self { split_from: total, ..Self::empty(&self.sources, &self.tokenizer) };
        let Self { dropped, too_long, over_max_tokens, repeated, bad, .. } = self;
        let (mut train, mut held_out) =
            (Self { dropped, too_long, over_max_tokens, repeated, bad, ..empty() }, empty());
        let mut items = self.rows.into_iter().zip(self.locations).zip(self.parts);
        for (place, checksum) in self.checksums.into_iter().enumerate() {
            let count = self.places.items_of(place).len();
            let is_held_out = count > 0 && marks.next() == Some(true);
            let part = if is_held_out { &mut held_out } else { &mut train };
            for ((item, location), of_row) in items.by_ref().take(count) {
                if let Some(&sequences) = self.several.get(&location) {
                    part.several.insert(location, sequences);
                }
                part.rows.push(item);
                part.locations.push(location);
                part.parts.push(of_row);
            }
            part.places.push(part.rows.len());
            part.checksums.push(checksum);
        }
        (train, held_out)
    }

    /// The same with a place for each piece of a row that was split, so that a micro-batch has no more rows than others.
    #[must_use]
    pub fn in_pieces(self) -> Self {
        let places = self.places.in_pieces(|item| self.parts[item] == Part::LaterPiece);
        Self { places, ..self }
    }

    /// The same with its items packed into rows of at most `capacity` tokens, see [`Places::packed`].
    #[must_use]
    pub fn packed(mut self, capacity: usize, seed: Option<u64>) -> Self {
        let (places, all) = self.places.packed(capacity, seed, |item| packing::lengths(&self.rows[item]));
        self.locations = self.locations_of(&all);
        self.parts = all.iter().map(|&item| self.parts[item]).collect();
        self.rows = all.into_iter().map(|item| std::mem::take(&mut self.rows[item])).collect();
        Self { places, ..self }
    }

    /// The number of rows with something to train.
    pub(super) fn trainable(&self) -> usize {
        let left_out = self.too_long.len() + self.over_max_tokens.len() + self.repeated.len();
        self.places() - self.dropped.len() - left_out - self.bad.len()
    }

    /// The number of rows that were read.
    pub fn rows_read(&self) -> usize {
        self.checksums.len()
    }

    /// The number of rows that were read, or of those that their items are packed into.
    pub fn places(&self) -> usize {
        self.places.len()
    }

    /// The items of these places, and how many of them each row of a micro-batch has.
    pub fn batch_rows(&self, places: &[usize]) -> (Vec<usize>, Vec<usize>) {
        self.places.batch_rows(places)
    }

    /// The packed row that an item is in, from 1, where items are packed.
    pub fn packed_row_of(&self, item: usize) -> Option<usize> {
        self.places.are_packed().then(|| self.places.of_item(item) + 1)
    }

    /// The number of rows that items are packed into, where they are.
    pub fn packed_rows(&self) -> Option<usize> {
        self.places.are_packed().then_some(self.places.len())
    }

    /// The order of the rows in an epoch.
    pub fn order(&self, plan: &Plan, epoch: u64) -> Vec<usize> {
        self.places.order(plan, epoch, |item| packing::lengths(&self.rows[item]))
    }

    /// The locations of items.
    pub fn locations_of(&self, items: &[usize]) -> Vec<RowLocation> {
        items.iter().map(|&item| self.locations[item]).collect()
    }

    /// The names of the sources.
    pub fn sources(&self) -> &[String] {
        &self.sources
    }

    /// The items of all rows.
    pub fn rows(&self) -> &[Item] {
        &self.rows
    }

    /// The sources and numbers of these rows as text: `train.jsonl rows 3, 17`.
    pub fn name_rows(&self, rows: &[usize]) -> String {
        self.name_locations(&rows.iter().map(|&row| self.locations[row]).collect::<Vec<_>>())
    }

    /// The source and number of the row of a place that has items, as text.
    pub(super) fn name_place(&self, place: usize) -> String {
        self.name_rows(&self.places.items_of(place).take(1).collect::<Vec<_>>())
    }

    pub(super) fn name_locations(&self, locations: &[RowLocation]) -> String {
        row_location::describe(&self.sources, locations)
    }

    /// The source of a row and its number there.
    pub fn place(&self, row: usize) -> (&str, u64) {
        self.place_of(&self.locations[row])
    }

    /// The same for the dropped rows.
    pub fn dropped(&self) -> impl ExactSizeIterator<Item = (&str, u64)> {
        self.dropped.iter().map(|place| self.place_of(place))
    }

    /// How many rows were too long, and what became of them.
    pub fn long_rows(&self) -> LongRows {
        let count = |part: Part| self.parts.iter().filter(|&&other| other == part).count();
        let split = count(Part::FirstPiece);
        LongRows {
            cut: self.rows.iter().filter(|row| row.truncated() > 0).count(),
            cut_tokens: self.rows.iter().map(Item::truncated).sum(),
            dropped: self.too_long.clone(),
            over_max_tokens: self.over_max_tokens.clone(),
            split,
            pieces: split + count(Part::LaterPiece),
        }
    }

    /// How many rows have a sequence for each of several answers, and how many sequences these are.
    pub fn by_answer(&self) -> (usize, usize) {
        (self.several.len(), self.several.values().sum())
    }

    /// The number of rows that the items are of.
    pub fn row_count(&self) -> usize {
        let (long, (rows, sequences)) = (self.long_rows(), self.by_answer());
        self.rows.len() - (long.pieces - long.split) - (sequences - rows)
    }

    /// The number of an item among those of its row, from 1, and how many these are; none where it is the only one.
    pub fn part_of_row(&self, item: usize) -> Option<(usize, usize)> {
        let same = |others: &[RowLocation]| others.iter().filter(|&&other| other == self.locations[item]).count();
        Some((same(&self.locations[..=item]), same(&self.locations))).filter(|&(_, all)| all > 1)
    }

    /// What the trainer says of the rows.
    pub fn notes(&self) -> Notes {
        Notes::of(self.locations.iter().copied().zip(&self.rows))
    }

    /// Those that cannot be used.
    pub fn bad(&self) -> &[BadRow] {
        &self.bad
    }

    /// The source and number of each row that was left out by `data.max_tokens`, or because it repeats an earlier one.
    pub fn left_out(&self) -> [Vec<(&str, u64)>; 2] {
        [&self.over_max_tokens, &self.repeated].map(|rows| rows.iter().map(|place| self.place_of(place)).collect())
    }

    /// The source and number of each row that was left out because it is too long.
    pub fn too_long(&self) -> impl ExactSizeIterator<Item = (&str, u64)> {
        self.too_long.iter().map(|place| self.place_of(place))
    }

    /// The source of a place and its number there.
    pub fn place_of(&self, place: &RowLocation) -> (&str, u64) {
        (&self.sources[place.source as usize], place.row)
    }

    /// The items of a place, and what each is of its row.
    pub(super) fn items_of(&self, place: usize) -> impl ExactSizeIterator<Item = (&Item, Part)> {
        self.places.items_of(place).map(|item| (&self.rows[item], self.parts[item]))
    }

    /// How many rows and tokens there are, and which rows were left out.
    pub(super) fn counts(&self) -> Counts {
        Counts {
            rows: self.row_count(),
            tokens: self.rows.iter().map(Item::tokens).sum(),
            supervised: self.rows.iter().map(Item::supervised_tokens).sum(),
            by_answer: self.by_answer(),
            long: self.long_rows(),
            repeated: self.repeated.clone(),
            bad: self.bad.len(),
            dropped: self.dropped.clone(),
        }
    }

    /// Counts of rows and tokens, as a line for the user.
    pub fn summary(&self) -> String {
        let packed = self.places.packed_rows(|item| packing::lengths(&self.rows[item]));
        self.counts().text(self.split_from, packed, &|rows| self.name_locations(rows))
    }

    /// A checksum of the values of all rows, in order, and of what turns them into tokens. It does not depend on the
    /// files that they came from.
    pub fn fingerprint(&self) -> String {
        let mut digest = Sha256::new();
        digest.update(&self.tokenizer);
        self.checksums.iter().for_each(|checksum| digest.update(checksum));
        checksum::hexadecimal(&digest.finalize())
    }
}

/// Checksums of the items of rows.
pub(super) type Known = HashSet<[u8; 16]>;

/// A checksum of the tokens of items, which of them are trained, and the numbers beside them.
fn content_of<'a>(items: impl Iterator<Item = &'a Item>) -> [u8; 16] {
    let mut digest = Sha256::new();
    for Item { sequences, numbers, .. } in items {
        for sequence in sequences {
            digest.update((sequence.name.len() as u64).to_le_bytes());
            digest.update(&sequence.name);
            digest.update((sequence.tokens.len() as u64).to_le_bytes());
            sequence.tokens.iter().for_each(|token| digest.update(token.to_le_bytes()));
            sequence.supervised.iter().for_each(|&mark| digest.update([u8::from(mark)]));
        }
        for (name, values) in numbers {
            digest.update((name.len() as u64).to_le_bytes());
            digest.update(name);
            digest.update((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| digest.update(value.to_le_bytes()));
        }
    }
    *digest.finalize().first_chunk().unwrap_or(&[0; 16])
}

fn checksum_of(example: &Example) -> [u8; 32] {
    let mut digest = Sha256::new();
    for (name, value) in &example.values {
        digest.update(Value::from(name.as_str()).to_string());
        digest.update(value.to_json().to_string());
    }
    digest.finalize().into()
}
