//! The rows of a job: read from their sources, turned into tokens, counted.

mod row_location;
mod row_order;
pub mod split;

use std::sync::Arc;

use mdt_plugin_api::{Encoded, Error, Example, Trainer};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::checksum;
use crate::exit::{Failure, Status};
use crate::job::Job;
use row_location::RowLocation;
pub use row_order::Plan;

/// Rows of a chunk that is encoded in parallel.
const CHUNK: usize = 1024;
/// Rows that a message names at most.
const NAMED: usize = 5;

/// All rows that can be trained, as tokens.
pub struct Dataset {
    rows: Vec<Encoded>,
    places: Vec<RowLocation>,
    sources: Vec<String>,
    /// Rows in which nothing would be trained.
    dropped: Vec<RowLocation>,
    /// The number of rows before some were held out; none where that did not happen.
    split_from: Option<usize>,
}

/// The rows that a job trains on, and those that it holds out for evaluation.
///
/// # Errors
/// A source or row that cannot be used; nothing to train, or nothing to evaluate where the configuration wants to.
pub fn read(job: &Job, trainer: &Arc<dyn Trainer>) -> Result<(Dataset, Option<Dataset>), Failure> {
    let settings = &job.resolved.settings;
    let data = &settings.data;
    let train = Dataset::read(job, trainer, &data.train)?;
    if let Some(split) = data.split()? {
        let count = split::count(split, train.rows.len())?;
        let (train, held_out) = train.split(count, settings.seed);
        return Ok((train, Some(held_out)));
    }
    let held_out = match data.eval.as_slice() {
        [] => None,
        sources => Some(Dataset::read(job, trainer, sources)?),
    };
    Ok((train, held_out))
}

impl Dataset {
    /// Reads these sources, one after the other.
    ///
    /// # Errors
    /// A source or row that cannot be used; no row with anything to train.
    pub fn read(job: &Job, trainer: &Arc<dyn Trainer>, sources: &[String]) -> Result<Self, Failure> {
        let mut dataset = Self::empty(sources);
        for (number, name) in sources.iter().enumerate() {
            let mut source = job.data(name)?;
            loop {
                let chunk = dataset.read_chunk(&mut *source)?;
                if chunk.is_empty() {
                    break;
                }
                dataset.encode(&**trainer, number as u32, &chunk)?;
            }
        }
        if dataset.rows.is_empty() {
            let message = match dataset.dropped.len() {
                0 => "the data has no rows".to_owned(),
                count => format!("none of the {count} rows has anything to train"),
            };
            let failure = Failure::new(Status::Input, message).at(sources.join(", "));
            return Err(match dataset.dropped.len() {
                0 => failure,
                _ => failure
                    .at(dataset.name_places(&dataset.dropped))
                    .help("the prompts fill `trainer.max_seq_len`, or the answers are empty"),
            });
        }
        Ok(dataset)
    }

    fn empty(sources: &[String]) -> Self {
        let sources = sources.to_vec();
        Self { rows: Vec::new(), places: Vec::new(), sources, dropped: Vec::new(), split_from: None }
    }

    /// Holds out `count` rows, drawn by `seed`; both parts keep the order of the rows. Dropped rows stay with the
    /// first part, whose file has them.
    fn split(self, count: usize, seed: u64) -> (Self, Self) {
        let total = Some(self.rows.len());
        let marks = split::held_out(self.rows.len(), count, seed);
        let mut train = Self { dropped: self.dropped, split_from: total, ..Self::empty(&self.sources) };
        let mut held_out = Self { split_from: total, ..Self::empty(&self.sources) };
        for ((row, place), mark) in self.rows.into_iter().zip(self.places).zip(marks) {
            let part = if mark { &mut held_out } else { &mut train };
            part.rows.push(row);
            part.places.push(place);
        }
        (train, held_out)
    }

    fn read_chunk(&self, source: &mut dyn mdt_plugin_api::DataSource) -> Result<Vec<Example>, Failure> {
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK {
            match source.next()? {
                Some(example) => chunk.push(example),
                None => break,
            }
        }
        Ok(chunk)
    }

    fn encode(&mut self, trainer: &dyn Trainer, source: u32, chunk: &[Example]) -> Result<(), Failure> {
        let mut rows: Vec<(&Example, Result<Encoded, Error>)> =
            chunk.par_iter().map(|example| (example, trainer.encode(example))).collect();
        // The row that made the trainer panic is reported before the rows that it then refused.
        rows.sort_by_key(|(_, encoded)| encoded.as_ref().is_err_and(Error::is_after_a_panic));
        for (example, encoded) in rows {
            let place = RowLocation { source, row: example.row };
            let encoded = encoded.map_err(|error| Failure::from(error).at(self.name_places(&[place])))?;
            if encoded.supervised_tokens() == 0 {
                self.dropped.push(place);
            } else {
                self.rows.push(encoded);
                self.places.push(place);
            }
        }
        Ok(())
    }

    /// The rows.
    pub fn rows(&self) -> &[Encoded] {
        &self.rows
    }

    /// Where these rows came from: `train.jsonl rows 3, 17`.
    pub fn name_rows(&self, rows: &[usize]) -> String {
        self.name_places(&rows.iter().map(|&row| self.places[row]).collect::<Vec<_>>())
    }

    fn name_places(&self, places: &[RowLocation]) -> String {
        row_location::describe(&self.sources, places)
    }

    /// The source of a row, and its row there as the source counts.
    pub fn place(&self, row: usize) -> (&str, u64) {
        self.place_of(&self.places[row])
    }

    /// The same for the rows that were dropped because nothing in them would be trained.
    pub fn dropped(&self) -> impl ExactSizeIterator<Item = (&str, u64)> {
        self.dropped.iter().map(|place| self.place_of(place))
    }

    fn place_of(&self, place: &RowLocation) -> (&str, u64) {
        (&self.sources[place.source as usize], place.row)
    }

    /// What was read, in a line for the user.
    pub fn summary(&self) -> String {
        let tokens: usize = self.rows.iter().map(|row| row.tokens.len()).sum();
        let supervised: usize = self.rows.iter().map(Encoded::supervised_tokens).sum();
        let of = self.split_from.map_or(String::new(), |total| format!(" of {total}"));
        let mut text = format!("{}{of} rows, {tokens} tokens, {supervised} of them trained", self.rows.len());
        let cut: u64 = self.rows.iter().map(|row| row.truncated).sum();
        if cut > 0 {
            let rows = self.rows.iter().filter(|row| row.truncated > 0).count();
            let plural = if rows == 1 { "row" } else { "rows" };
            text += &format!("; {rows} {plural} cut at max_seq_len, losing {cut} tokens");
        }
        if !self.dropped.is_empty() {
            let shown = self.name_places(&self.dropped[..self.dropped.len().min(NAMED)]);
            let more = if self.dropped.len() > NAMED { ", …" } else { "" };
            text += &format!("; {} dropped with nothing to train ({shown}{more})", self.dropped.len());
        }
        text
    }

    /// A checksum of every token and mark, in order: the same data gives the same text, whatever file it was in.
    pub fn fingerprint(&self) -> String {
        let mut digest = Sha256::new();
        for row in &self.rows {
            digest.update((row.tokens.len() as u64).to_le_bytes());
            row.tokens.iter().for_each(|token| digest.update(token.to_le_bytes()));
            row.supervised.iter().for_each(|&mark| digest.update([u8::from(mark)]));
        }
        checksum::hexadecimal(&digest.finalize())
    }
}
