//! Rows as tokens, and the source and row number of each.

use mdt_plugin_api::Item;
use sha2::{Digest, Sha256};

use super::row_location::{self, RowLocation};
use super::split;
use crate::checksum;
use crate::counted::counted;

/// The most rows that a message names.
const NAMED: usize = 5;

/// The rows that can be trained, as items: a row may have become several.
pub struct Dataset {
    pub(super) rows: Vec<Item>,
    pub(super) locations: Vec<RowLocation>,
    pub(super) sources: Vec<String>,
    /// Rows without any token to train.
    pub(super) dropped: Vec<RowLocation>,
    /// The number of rows before some were held out; none if that did not happen.
    split_from: Option<usize>,
}

impl Dataset {
    /// A data set of these sources without rows.
    pub(super) fn empty(sources: &[String]) -> Self {
        let sources = sources.to_vec();
        Self { rows: Vec::new(), locations: Vec::new(), sources, dropped: Vec::new(), split_from: None }
    }

    /// Splits off `count` rows, drawn by `seed`; both parts keep the order of the rows. Dropped rows stay with the first
    /// part.
    pub(super) fn split(self, count: usize, seed: u64) -> (Self, Self) {
        let total = Some(self.rows.len());
        let marks = split::held_out(self.rows.len(), count, seed);
        let mut train = Self { dropped: self.dropped, split_from: total, ..Self::empty(&self.sources) };
        let mut held_out = Self { split_from: total, ..Self::empty(&self.sources) };
        for ((row, location), mark) in self.rows.into_iter().zip(self.locations).zip(marks) {
            let part = if mark { &mut held_out } else { &mut train };
            part.rows.push(row);
            part.locations.push(location);
        }
        (train, held_out)
    }

    /// The items.
    pub fn rows(&self) -> &[Item] {
        &self.rows
    }

    /// The sources and numbers of these rows as text: `train.jsonl rows 3, 17`.
    pub fn name_rows(&self, rows: &[usize]) -> String {
        self.name_locations(&rows.iter().map(|&row| self.locations[row]).collect::<Vec<_>>())
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

    fn place_of(&self, place: &RowLocation) -> (&str, u64) {
        (&self.sources[place.source as usize], place.row)
    }

    /// Counts of rows and tokens, as a line for the user.
    pub fn summary(&self) -> String {
        let tokens: usize = self.rows.iter().map(Item::tokens).sum();
        let supervised: usize = self.rows.iter().map(Item::supervised_tokens).sum();
        let of = self.split_from.map_or(String::new(), |total| format!(" of {total}"));
        let mut text = format!("{}{of} rows, {tokens} tokens, {supervised} of them trained", self.rows.len());
        let cut: u64 = self.rows.iter().map(Item::truncated).sum();
        if cut > 0 {
            let rows = self.rows.iter().filter(|row| row.truncated() > 0).count();
            let rows = counted(rows, "row");
            text += &format!("; {rows} cut at max_seq_len, losing {cut} tokens");
        }
        if !self.dropped.is_empty() {
            let shown = self.name_locations(&self.dropped[..self.dropped.len().min(NAMED)]);
            let more = if self.dropped.len() > NAMED { ", …" } else { "" };
            text += &format!("; {} dropped with nothing to train ({shown}{more})", self.dropped.len());
        }
        text
    }

    /// A checksum of all tokens, of which are trained, and of the numbers beside them, in order. It does not depend on the file that they came from.
    pub fn fingerprint(&self) -> String {
        let mut digest = Sha256::new();
        for item in &self.rows {
            for sequence in &item.sequences {
                if sequence.name != Item::TOKENS {
                    digest.update(&sequence.name);
                }
                digest.update((sequence.tokens.len() as u64).to_le_bytes());
                sequence.tokens.iter().for_each(|token| digest.update(token.to_le_bytes()));
                sequence.supervised.iter().for_each(|&mark| digest.update([u8::from(mark)]));
            }
            for (name, values) in &item.numbers {
                digest.update(name);
                values.iter().for_each(|value| digest.update(value.to_bits().to_le_bytes()));
            }
        }
        checksum::hexadecimal(&digest.finalize())
    }
}
