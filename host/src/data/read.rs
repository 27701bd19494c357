//! Reads and encodes rows, until they end, enough are read, or memory is full.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use indicatif::HumanCount;
use mdt_plugin_api::{Error, HostServices, Item, Sequence};
use rayon::prelude::*;

use super::bad_rows::is_of_a_row;
use super::chain::{Chain, ReadRow};
use super::dataset::Dataset;
use super::items::{EncodedRow, Encoder};
use super::long_rows;
use super::row_location::RowLocation;
use crate::config::OnBadRow;
use crate::exit::{Failure, Status};
use crate::job::Job;
use crate::memory::memory;
use crate::progress;

/// Rows that are encoded in parallel; fewer if a source is slow.
const CHUNK: usize = 1024;
/// How long rows are collected before they are encoded.
const COLLECTING: Duration = Duration::from_secs(1);
/// Time until the first line that says how many rows were read, and the longest time between two such lines.
const FIRST_LINE: Duration = Duration::from_secs(1);
const LAST_LINE: Duration = Duration::from_secs(30);

/// Rows that were read, and how they have ended, if they have.
type Collected = (Vec<ReadRow>, Option<Result<(), Failure>>);

/// A row and its items.
type Encoded<'a> = (&'a ReadRow, Result<long_rows::Encoded, Error>);

/// Reads all sources of a job.
pub(super) struct Reader<'a> {
    job: &'a Job,
    encoder: &'a Encoder,
    /// Bytes of all rows so far, those of other data sets included.
    held: u64,
    /// Rows that were read before those of the data set that is added to.
    before: usize,
    next_line: Instant,
    between_lines: Duration,
}

impl<'a> Reader<'a> {
    pub(super) fn new(job: &'a Job, encoder: &'a Encoder) -> Self {
        let next_line = Instant::now() + FIRST_LINE;
        Self { job, encoder, held: 0, before: 0, next_line, between_lines: FIRST_LINE }
    }

    /// Adds rows to a data set until it has `most` or they end. Returns whether there may be more.
    pub(super) fn read(&mut self, dataset: &mut Dataset, chain: &mut Chain, most: usize) -> Result<bool, Failure> {
        while dataset.places() < most {
            let (rows, end) = self.collect(dataset, chain, most - dataset.places())?;
            self.encode(dataset, &rows)?;
            self.require_memory(dataset)?;
            match end {
                None => {}
                Some(Ok(())) => return Ok(false),
                Some(Err(failure)) => return Err(failure),
            }
        }
        Ok(true)
    }

    /// Reads rows whose tokens are not kept: up to `most`, and all that come before have been read so. `encoded` sees each row that
    /// can be used, with its place among them.
    pub(super) fn read_some(
        &mut self,
        dataset: &mut Dataset,
        chain: &mut Chain,
        most: usize,
        encoded: &mut dyn FnMut(usize, RowLocation, &long_rows::Encoded),
    ) -> Result<(), Failure> {
        let held = self.held;
        while dataset.places() < most {
            let (rows, end) = self.collect(dataset, chain, most - dataset.places())?;
            self.encode_to(dataset, &rows, encoded)?;
            match end {
                None => {}
                Some(Ok(())) => break,
                Some(Err(failure)) => return Err(failure),
            }
        }
        self.passed(dataset.places());
        self.held = held;
        Ok(())
    }

    /// Adds a row that was encoded elsewhere.
    pub(super) fn add(&mut self, dataset: &mut Dataset, (location, encoded): EncodedRow) -> Result<(), Failure> {
        match encoded {
            Ok(encoded) => dataset.push_encoded(location, encoded),
            Err(error) if self.is_skipped(&error) => dataset.push_bad(location, &error),
            Err(error) => return Err(Failure::from(error).at(dataset.name_locations(&[location]))),
        }
        Ok(())
    }

    /// So many more rows were read, and are kept no longer.
    pub(super) fn passed(&mut self, rows: usize) {
        self.before += rows;
    }

    /// The next rows, and how they have ended, if they have: rows before one that cannot be read are encoded first,
    /// because one of them may be refused.
    fn collect(&mut self, dataset: &Dataset, chain: &mut Chain, wanted: usize) -> Result<Collected, Failure> {
        let begin = Instant::now();
        let mut rows = Vec::new();
        while rows.len() < wanted.min(CHUNK) && begin.elapsed() < COLLECTING {
            self.require_not_cancelled()?;
            self.show(dataset, chain.source_number(), rows.len());
            match chain.next() {
                Ok(Some(row)) => rows.push(row),
                Ok(None) => return Ok((rows, Some(Ok(())))),
                Err(failure) => {
                    self.require_not_cancelled()?;
                    return Ok((rows, Some(Err(failure))));
                }
            }
        }
        Ok((rows, None))
    }

    /// Whether anything of a row is trained.
    pub(super) fn is_trained(&self, (at, example): &ReadRow, of: &Dataset) -> Result<bool, Failure> {
        self.require_not_cancelled()?;
        match self.encoder.encode_read(example) {
            Ok(encoded) => Ok(!encoded.items.is_empty()),
            Err(error) if self.is_skipped(&error) => Ok(false),
            Err(error) => Err(Failure::from(error).at(of.name_locations(&[*at]))),
        }
    }

    /// Encodes rows and adds them.
    pub(super) fn encode(&mut self, dataset: &mut Dataset, rows: &[ReadRow]) -> Result<(), Failure> {
        self.encode_to(dataset, rows, &mut |_, _, _| ())
    }

    fn encode_to(
        &mut self,
        dataset: &mut Dataset,
        rows: &[ReadRow],
        encoded_row: &mut dyn FnMut(usize, RowLocation, &long_rows::Encoded),
    ) -> Result<(), Failure> {
        // Rows after one that is refused need not be encoded; those before it do, so that the first such row is reported.
        let refused = AtomicUsize::new(usize::MAX);
        let encode = |place: usize| {
            if self.job.services.cancelled() || place > refused.load(Ordering::Relaxed) {
                return None;
            }
            let row = &rows[place];
            let encoded = self.encoder.encode_read(&row.1);
            if encoded.as_ref().is_err_and(|error| !self.is_skipped(error)) {
                refused.fetch_min(place, Ordering::Relaxed);
            }
            Some((row, encoded))
        };
        let encoded: Vec<Option<Encoded<'_>>> = (0..rows.len()).into_par_iter().map(encode).collect();
        self.require_not_cancelled()?;
        let mut encoded: Vec<_> = encoded.into_iter().flatten().collect();
        let is_refused = |(_, encoded): &(_, Result<_, Error>)| encoded.as_ref().is_err_and(Error::is_after_a_panic);
        if encoded.iter().any(is_refused) {
            // A row that was refused after the panic of a later one may be at fault too. A new trainer finds the first
            // row that is, whichever thread was faster.
            let directory = self.job.model_directory()?;
            let trainer = self.job.trainer(&directory, &self.job.tokenizer(&directory)?)?;
            let encoder = self.encoder.with(trainer);
            let again = rows.iter().map(|row| (row, encoder.encode_read(&row.1)));
            let ends_it = |(_, encoded): &(_, Result<_, Error>)| encoded.as_ref().is_err_and(|e| !self.is_skipped(e));
            match again.take_while(|_| !self.job.services.cancelled()).find(ends_it) {
                Some(first) => encoded = vec![first],
                None => encoded.sort_by_key(is_refused),
            }
        }
        for ((location, example), encoded) in encoded {
            self.held += size_of::<(RowLocation, usize, [u8; 32])>() as u64;
            let encoded = match encoded {
                Ok(encoded) => encoded,
                Err(error) if self.is_skipped(&error) => {
                    dataset.push_bad(*location, &error);
                    continue;
                }
                Err(error) => return Err(Failure::from(error).at(dataset.name_locations(&[*location]))),
            };
            for item in &encoded.items {
                self.held += size_of::<RowLocation>() as u64 + bytes(item);
            }
            encoded_row(dataset.places(), *location, &encoded);
            dataset.push(*location, example, encoded);
        }
        Ok(())
    }

    /// Whether a row with this error is passed over.
    fn is_skipped(&self, error: &Error) -> bool {
        self.job.resolved.settings.data.on_bad_row == OnBadRow::Skip && is_of_a_row(error)
    }

    fn require_not_cancelled(&self) -> Result<(), Failure> {
        if !self.job.services.cancelled() {
            return Ok(());
        }
        Err(Failure::new(Status::Interrupted, "interrupted while rows were read: nothing has been trained yet"))
    }

    /// Rows may take three quarters of the available memory; the rest is for training. It is measured each time, because
    /// other ranks may be reading on the same machine.
    fn require_memory(&self, dataset: &Dataset) -> Result<(), Failure> {
        let left = memory().map(|memory| memory.available).filter(|left| self.held / 3 > *left);
        let Some(left) = left else { return Ok(()) };
        let rows = HumanCount(dataset.places() as u64);
        let [held, left] = [self.held, left].map(|bytes| HumanCount(bytes >> 20));
        Err(Failure::new(Status::Input, "the rows do not fit in memory")
            .at(dataset.sources.join(", "))
            .because(format!("{rows} rows were read and take {held} MiB; {left} MiB are left, which training needs"))
            .help("let them stream with `data.streaming = true`, or read fewer: set `data.limit`"))
    }

    fn show(&mut self, dataset: &Dataset, number: usize, waiting: usize) {
        let now = Instant::now();
        if now < self.next_line {
            return;
        }
        let rows = self.before + dataset.places() + waiting;
        progress::note(&format!("reading  {}: {} rows so far", dataset.sources[number], HumanCount(rows as u64)));
        self.between_lines = (self.between_lines * 2).min(LAST_LINE);
        self.next_line = now + self.between_lines;
    }
}

/// The memory that an item takes.
fn bytes(item: &Item) -> u64 {
    let sequence = |sequence: &Sequence| {
        size_of::<Sequence>()
            + sequence.name.capacity()
            + sequence.tokens.capacity() * size_of::<u32>()
            + sequence.supervised.capacity()
    };
    let numbers = |(name, values): &(String, Vec<f64>)| {
        size_of::<(String, Vec<f64>)>() + name.capacity() + values.capacity() * size_of::<f64>()
    };
    let sequences = item.sequences.iter().map(sequence).sum::<usize>();
    (size_of::<Item>() + sequences + item.numbers.iter().map(numbers).sum::<usize>()) as u64
}
