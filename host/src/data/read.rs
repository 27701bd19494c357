//! Reads and encodes the rows of a source, until it ends, enough rows are read, or memory is full.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use indicatif::HumanCount;
use mdt_plugin_api::{DataSource, Error, Example, HostServices, Item, Sequence, Trainer};
use rayon::prelude::*;

use super::dataset::Dataset;
use super::items::ItemLimits;
use super::row_location::RowLocation;
use crate::exit::{Failure, Status};
use crate::job::Job;
use crate::memory::memory;
use crate::progress;

/// Rows that are encoded in parallel; fewer if a source is slow.
const CHUNK: usize = 1024;
/// How long rows are collected before they are encoded.
const COLLECTING: Duration = Duration::from_secs(1);
/// Time until the first line that says how many rows were read, and the longest time between two such lines.
const FIRST_LINE: Duration = Duration::from_secs(2);
const LAST_LINE: Duration = Duration::from_secs(30);

/// A row and its items.
type Encoded<'a> = (&'a Example, Result<Vec<Item>, Error>);

/// Reads all sources of a job.
pub(super) struct Reader<'a> {
    job: &'a Job,
    trainer: &'a dyn Trainer,
    items: ItemLimits,
    /// Bytes of all rows so far, those of other data sets included.
    held: u64,
    next_line: Instant,
    between_lines: Duration,
}

impl<'a> Reader<'a> {
    pub(super) fn new(job: &'a Job, trainer: &'a dyn Trainer, items: ItemLimits) -> Self {
        let next_line = Instant::now() + FIRST_LINE;
        Self { job, trainer, items, held: 0, next_line, between_lines: FIRST_LINE }
    }

    /// Adds the rows of source number `number` to a data set until the data set has `most` rows or the source ends.
    /// Returns whether the source may have more.
    pub(super) fn read(
        &mut self,
        dataset: &mut Dataset,
        number: usize,
        source: &mut dyn DataSource,
        most: usize,
    ) -> Result<bool, Failure> {
        while dataset.rows.len() < most {
            let (chunk, ended) = self.collect(dataset, number, source, most - dataset.rows.len())?;
            self.encode(dataset, number as u32, &chunk)?;
            self.require_memory(dataset)?;
            if ended {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The next rows of a source, and whether it has ended.
    fn collect(
        &mut self,
        dataset: &Dataset,
        number: usize,
        source: &mut dyn DataSource,
        wanted: usize,
    ) -> Result<(Vec<Example>, bool), Failure> {
        let begin = Instant::now();
        let mut chunk = Vec::new();
        while chunk.len() < wanted.min(CHUNK) && begin.elapsed() < COLLECTING {
            self.require_not_cancelled()?;
            self.show(dataset, number, chunk.len());
            match source.next()? {
                Some(example) => chunk.push(example),
                None => return Ok((chunk, true)),
            }
        }
        Ok((chunk, false))
    }

    fn encode(&mut self, dataset: &mut Dataset, source: u32, chunk: &[Example]) -> Result<(), Failure> {
        // Rows after one that is refused need not be encoded; those before it do, so that the first such row is reported.
        let refused = AtomicUsize::new(usize::MAX);
        let encode = |(place, example)| {
            if self.job.services.cancelled() || place > refused.load(Ordering::Relaxed) {
                return None;
            }
            let encoded = self.items_of(self.trainer, example);
            if encoded.is_err() {
                refused.fetch_min(place, Ordering::Relaxed);
            }
            Some((example, encoded))
        };
        let encoded: Vec<Option<Encoded<'_>>> = chunk.par_iter().enumerate().map(encode).collect();
        self.require_not_cancelled()?;
        let mut rows: Vec<_> = encoded.into_iter().flatten().collect();
        let is_refused = |(_, encoded): &(_, Result<_, Error>)| encoded.as_ref().is_err_and(Error::is_after_a_panic);
        if rows.iter().any(is_refused) {
            // A row that was refused after the panic of a later one may be at fault too. A new trainer finds the first
            // row that is, whichever thread was faster.
            let directory = self.job.model_directory()?;
            let trainer = self.job.trainer(&directory, &self.job.tokenizer(&directory)?)?;
            let again = chunk.iter().map(|example| (example, self.items_of(&*trainer, example)));
            match again.take_while(|_| !self.job.services.cancelled()).find(|(_, encoded)| encoded.is_err()) {
                Some(first) => rows = vec![first],
                None => rows.sort_by_key(is_refused),
            }
        }
        for (example, encoded) in rows {
            let location = RowLocation { source, row: example.row };
            let mut items = encoded.map_err(|error| Failure::from(error).at(dataset.name_locations(&[location])))?;
            items.retain(|item| item.supervised_tokens() > 0);
            if items.is_empty() {
                self.held += size_of::<RowLocation>() as u64;
                dataset.dropped.push(location);
            }
            for item in items {
                self.held += size_of::<RowLocation>() as u64 + bytes(&item);
                dataset.rows.push(item);
                dataset.locations.push(location);
            }
        }
        Ok(())
    }

    /// What the trainer makes of a row, within the limits of items.
    fn items_of(&self, trainer: &dyn Trainer, example: &Example) -> Result<Vec<Item>, Error> {
        let mut items = trainer.encode(example)?;
        let of_trainer = |error: Error| error.in_component(self.job.trainer_name()).with("row", example.row);
        items.iter_mut().try_for_each(|item| self.items.enforce(item)).map_err(of_trainer)?;
        Ok(items)
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
        let rows = HumanCount((dataset.rows.len() + dataset.dropped.len()) as u64);
        let [held, left] = [self.held, left].map(|bytes| HumanCount(bytes >> 20));
        Err(Failure::new(Status::Input, "the rows do not fit in memory")
            .at(dataset.sources.join(", "))
            .because(format!("{rows} rows were read and take {held} MiB; {left} MiB are left, which training needs"))
            .help("read fewer rows: set `data.limit`, or `trainer.max_steps` for a source without end"))
    }

    fn show(&mut self, dataset: &Dataset, number: usize, waiting: usize) {
        let now = Instant::now();
        if now < self.next_line {
            return;
        }
        let rows = dataset.rows.len() + dataset.dropped.len() + waiting;
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
