//! The rows of a job: read from their sources, turned into tokens, counted.

use std::sync::Arc;

use mdt_plugin_api::{Encoded, Error, Example, Trainer};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::checksum;
use crate::exit::{Failure, Status};
use crate::job::Job;

/// Rows of a chunk that is encoded in parallel.
const CHUNK: usize = 1024;
/// Rows that a message names at most.
const NAMED: usize = 5;

/// All rows that can be trained, as tokens.
pub struct Dataset {
    rows: Vec<Encoded>,
    places: Vec<Place>,
    sources: Vec<String>,
    /// Rows in which nothing would be trained.
    dropped: Vec<Place>,
}

/// Where a row came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    source: u32,
    row: u64,
}

impl Dataset {
    /// Reads these sources, one after the other.
    ///
    /// # Errors
    /// A source or row that cannot be used; no row with anything to train.
    pub fn read(job: &Job, trainer: &Arc<dyn Trainer>, sources: &[String]) -> Result<Self, Failure> {
        let mut dataset = Self { rows: Vec::new(), places: Vec::new(), sources: sources.to_vec(), dropped: Vec::new() };
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
        let encoded: Vec<Result<Encoded, Error>> = chunk.par_iter().map(|example| trainer.encode(example)).collect();
        for (example, encoded) in chunk.iter().zip(encoded) {
            let place = Place { source, row: example.row };
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

    fn name_places(&self, places: &[Place]) -> String {
        let mut text = String::new();
        for (number, name) in self.sources.iter().enumerate() {
            let rows: Vec<u64> =
                places.iter().filter(|place| place.source == number as u32).map(|place| place.row).collect();
            if rows.is_empty() {
                continue;
            }
            let separator = if text.is_empty() { "" } else { "; " };
            let plural = if rows.len() == 1 { "row" } else { "rows" };
            let shown: Vec<_> = rows.iter().take(64).map(u64::to_string).collect();
            let rest = if rows.len() > 64 { format!(" and {} more", rows.len() - 64) } else { String::new() };
            text += &format!("{separator}{name} {plural} {}{rest}", shown.join(", "));
        }
        text
    }

    /// What was read, in a line for the user.
    pub fn summary(&self) -> String {
        let tokens: usize = self.rows.iter().map(|row| row.tokens.len()).sum();
        let supervised: usize = self.rows.iter().map(Encoded::supervised_tokens).sum();
        let mut text = format!("{} rows, {tokens} tokens, {supervised} of them trained", self.rows.len());
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
