//! Training rows that are read and encoded when their turn comes, in the order in which rows that are read whole would be trained: for
//! large sources whose rows can be read in any order.

use std::io;
use std::path::{Path, PathBuf};

use mdt_plugin_api::{HostServices, Item, Kind, Length, RowBatch};
use rayon::prelude::*;
use serde_json::json;

use super::bad_rows::{BadRow, bad_row_number};
use super::cache::{self, Cache};
use super::chain::{Chain, Opened, ReadRow};
use super::dataset::{Dataset, Known};
use super::items::{EncodedRow, Encoder};
use super::long_rows::Encoded;
use super::measured::{ItemAt, Measured};
use super::notes::Notes;
use super::read::Reader;
use super::row_location::{RowLocation, describe};
use super::row_order::Plan;
use super::sources::is_compressed;
use super::{content, split};
use crate::checksum;
use crate::config::{EvalSplit, LongRows, OnBadRow, Packing, Settings};
use crate::exit::{Failure, Status};
use crate::job::Job;
use crate::random::Stream;

/// The bytes of files from which on their rows are not all read before training, where `data.lazy` does not say it.
const LARGE: u64 = 64 << 20;

/// The rows that are encoded at a time where all are before training.
const MEASURED: usize = 4096;

/// Training rows, none of which is read yet.
pub struct OnDemand {
    sources: Vec<Opened>,
    /// For each source, the rows up to and with its last one.
    ends: Vec<u64>,
    /// The rows of all sources, as far as they are read.
    rows: u64,
    /// For each row that is held out, how many rows that are trained come before it.
    held_out: Vec<u64>,
    names: Vec<String>,
    /// What is known of all rows, where it has to be.
    measured: Option<Measured>,
    cache: Cache,
    job: Job,
}

/// The rows of a micro-batch.
pub enum BatchOnDemand {
    /// Encoded rows, of which nothing was known.
    Rows(Vec<EncodedRow>),
    /// Items of rows that are known, the row of each, and how many of them each row of the micro-batch has.
    Items { locations: Vec<RowLocation>, items: Vec<Item>, items_per_row: Vec<usize> },
}

impl OnDemand {
    /// The rows of these sources, if they are to be read so; otherwise the sources are given back.
    ///
    /// # Errors
    /// `data.lazy` asks for what cannot be; a source cannot be read.
    pub(super) fn of(
        job: &Job,
        encoder: &Encoder,
        mut sources: Vec<Opened>,
        tokenizer: &str,
    ) -> Result<Result<Self, Vec<Opened>>, Failure> {
        let settings = &job.resolved.settings;
        let names = settings.data.train_names();
        if !is_wanted(settings) {
            return Ok(Err(sources));
        }
        match (settings.data.lazy, not_in_any_order(&mut sources, &names)?) {
            (Some(true), Some(why)) => {
                return Err(Failure::configuration(
                    "`data.lazy` is true, and rows cannot be read when their turn comes",
                )
                .because(why)
                .help("remove one of the two"));
            }
            (_, Some(_)) => return Ok(Err(sources)),
            (_, None) => {}
        }
        let mut ends = Vec::new();
        for opened in &mut sources {
            let Length::Rows(rows) = opened.source.length()? else { return Ok(Err(sources)) };
            ends.push(ends.last().unwrap_or(&0) + rows);
        }
        let rows = ends.last().copied().unwrap_or(0).min(settings.data.limit.unwrap_or(u64::MAX));
        let directory = directory(settings);
        if needs_lengths(settings)
            && (rows > u64::from(u32::MAX) || directory.is_none() && settings.data.lazy != Some(true))
        {
            // Each row would be tokenized twice.
            return Ok(Err(sources));
        }
        let contents = directory.as_ref().map(|cache| {
            let of = |name: &String| content::of(Path::new(name), cache, &|| job.services.cancelled());
            names.par_iter().map(of).collect::<io::Result<Vec<_>>>()
        });
        let cache = match contents {
            Some(Ok(contents)) => Cache::open(directory.as_deref(), &key(job, encoder, &contents, tokenizer)?),
            // What cannot be read is an error of the source.
            Some(Err(_)) | None => Cache::open(None, ""),
        };
        let (measured, job) = (needs_lengths(settings).then(Measured::default), job.clone());
        Ok(Ok(Self { sources, ends, rows, held_out: Vec::new(), measured, names, cache, job }))
    }

    /// The number of rows that are trained, or of those that their items are packed into.
    pub fn places(&self) -> usize {
        let rows = || self.rows as usize - self.held_out.len();
        self.measured.as_ref().map_or_else(rows, Measured::places)
    }

    /// Encodes all rows once, where lengths are needed, and keeps these and what the cache keeps.
    ///
    /// # Errors
    /// A row cannot be used; the job was cancelled.
    pub(super) fn measure(
        &mut self,
        reader: &mut Reader<'_>,
        encoder: &Encoder,
        tokenizer: &str,
    ) -> Result<(), Failure> {
        let Some(mut measured) = self.measured.take() else { return Ok(()) };
        let settings = self.job.resolved.settings.clone();
        let (ranks, rank) = (u64::from(settings.comm.world_size), u64::from(settings.comm.rank));
        // What is missing then is read by itself.
        let is_kept = self.cache.rows() as u64 * 10 > self.rows * 9;
        let mut chain = Chain::new(if is_kept { Vec::new() } else { std::mem::take(&mut self.sources) }, &self.job);
        let mut known = Known::default();
        for (chunk, first) in (0..).zip((0..self.rows).step_by(MEASURED)) {
            let places = first..self.rows.min(first + MEASURED as u64);
            let mut rows = Dataset::empty(&self.names, tokenizer);
            if is_kept {
                for row in self.encoded_at(encoder, &places.collect::<Vec<_>>())? {
                    reader.add(&mut rows, row)?;
                }
                reader.passed(rows.places());
            } else {
                let cache = &mut self.cache;
                let keep = &mut |place, location: RowLocation, encoded: &Encoded| {
                    // Ranks of one machine share what they keep.
                    if chunk % ranks == rank && cache.get(first + place as u64).is_none() {
                        cache.put(first + place as u64, location.row, encoded);
                    }
                };
                reader.read_some(&mut rows, &mut chain, (places.end - places.start) as usize, keep)?;
            }
            let rows = if settings.data.deduplicate { rows.deduplicated(&mut known) } else { rows };
            measured.add(first, &rows)?;
        }
        if !is_kept {
            self.sources = chain.into_sources()?;
        }
        // Also so that what was read of it is no part of this process's memory.
        self.cache.refresh();
        if measured.trainable() == 0 {
            return Err(measured.nothing_to_train(&self.names));
        }
        self.measured = Some(measured);
        Ok(())
    }

    /// Takes rows as they come, whatever their lengths are.
    pub(super) fn do_not_measure(&mut self) {
        self.measured = None;
    }

    /// Packs the items of rows, where lengths are needed, or gives each piece of a row a place of its own.
    pub(super) fn arrange(&mut self, encoder: &Encoder) {
        let settings = &self.job.resolved.settings;
        let capacity = settings.trainer.max_seq_len as usize;
        match (&mut self.measured, packs(settings, encoder)) {
            (Some(measured), true) => measured.pack(capacity, settings.data.shuffle.then_some(settings.seed)),
            (Some(measured), false) => measured.part_pieces(),
            (None, _) => {}
        }
    }

    /// Draws the rows that are held out, and reads them: by the seed, in whose order those are passed over of which nothing is
    /// trained. Where there are none such, they are the rows that would be held out of rows that are read whole.
    ///
    /// # Errors
    /// A row cannot be read; nothing would be held out, or nothing left to train on.
    pub(super) fn hold_out(
        &mut self,
        reader: &mut Reader<'_>,
        split: EvalSplit,
        tokenizer: &str,
    ) -> Result<Dataset, Failure> {
        let seed = self.job.resolved.settings.seed;
        if let Some(mut measured) = self.measured.take() {
            let rows = measured.trainable();
            let places = measured.take_out(&split::held_out(rows, split::count(split, rows)?, seed));
            let mut dataset = Dataset::empty(&self.names, tokenizer);
            let rows = places.into_iter().map(|place| self.read(place)).collect::<Result<Vec<_>, _>>()?;
            reader.encode(&mut dataset, &rows)?;
            dataset.split_from = Some(measured.trainable() + rows.len());
            measured.hold_out(&dataset);
            self.measured = Some(measured);
            return Ok(dataset);
        }
        let count = split::count(split, self.places())?;
        let mut dataset = Dataset::empty(&self.names, tokenizer);
        let mut order: Vec<u64> = (0..self.rows).collect();
        Stream::new(seed, "split", 0).shuffle(&mut order);
        let mut drawn = Vec::with_capacity(count);
        for place in order {
            if drawn.len() == count {
                break;
            }
            let row = self.read(place)?;
            if reader.is_trained(&row, &dataset)? {
                drawn.push((place, row));
            }
        }
        if drawn.len() < count {
            split::check(count as u64, drawn.len())?;
        }
        drawn.sort_by_key(|(place, _)| *place);
        let (places, rows): (Vec<u64>, Vec<ReadRow>) = drawn.into_iter().unzip();
        reader.encode(&mut dataset, &rows)?;
        dataset.split_from = Some(self.rows as usize);
        self.held_out = places.into_iter().zip(0..).map(|(place, before)| place - before).collect();
        Ok(dataset)
    }

    /// The place among all rows of one of those that are trained.
    fn place_of(&self, trained: usize) -> u64 {
        let trained = trained as u64;
        trained + self.held_out.partition_point(|&before| before <= trained) as u64
    }

    /// The names of the sources.
    pub fn sources(&self) -> &[String] {
        &self.names
    }

    /// The sources, for a preview.
    pub(super) fn into_sources(self) -> Vec<Opened> {
        self.sources
    }

    /// What they are, as a line for the user.
    pub fn summary(&self) -> String {
        if let Some(measured) = &self.measured {
            let name = |rows: &[RowLocation]| describe(&self.names, rows);
            return format!("{}; tokens are taken from the cache when their turn comes", measured.summary(&name));
        }
        let known = match self.cache.rows() {
            0 => String::new(),
            rows => format!("; {rows} of them are from the cache"),
        };
        let of = if self.held_out.is_empty() { String::new() } else { format!(" of {}", self.rows) };
        format!("{}{of} rows of {}, tokenized when their turn comes{known}", self.places(), self.names.join(", "))
    }

    /// What the trainer says of the rows, where all were encoded.
    pub fn notes(&self) -> Option<&Notes> {
        self.measured.as_ref().map(Measured::notes)
    }

    /// The rows that cannot be used, where all were encoded.
    pub fn bad(&self) -> &[BadRow] {
        self.measured.as_ref().map_or(&[], Measured::bad)
    }

    /// The order of the places in an epoch.
    pub fn order(&self, plan: &Plan, epoch: u64) -> Vec<usize> {
        let lengths_do_not_matter = || plan.order(self.places(), |_| 0, epoch);
        self.measured.as_ref().map_or_else(lengths_do_not_matter, |measured| measured.order(plan, epoch))
    }

    /// The rows of these places.
    ///
    /// # Errors
    /// One cannot be read, and is not to be skipped; the job was cancelled.
    pub fn batch(&mut self, encoder: &Encoder, places: &[usize]) -> Result<BatchOnDemand, Failure> {
        let Some(measured) = &self.measured else {
            let places: Vec<u64> = places.iter().map(|&place| self.place_of(place)).collect();
            return self.encoded_at(encoder, &places).map(BatchOnDemand::Rows);
        };
        let (items_at, items_per_row) = measured.batch_rows(places);
        let mut rows: Vec<u64> = items_at.iter().map(|item| item.row.into()).collect();
        rows.sort_unstable();
        rows.dedup();
        let encoded = self.encoded_at(encoder, &rows)?;
        let (mut locations, mut items) = (Vec::new(), Vec::new());
        for ItemAt { row, number } in items_at {
            let place = rows.binary_search(&row.into()).map_err(|_| Failure::internal())?;
            let (location, encoded) = &encoded[place];
            let named = || describe(&self.names, &[*location]);
            let encoded = encoded.as_ref().map_err(|error| Failure::from(error.clone()).at(named()))?;
            let changed = || Failure::new(Status::Input, "the row is another one than before").at(named());
            items.push(encoded.items.get(number as usize).ok_or_else(changed)?.clone());
            locations.push(*location);
        }
        Ok(BatchOnDemand::Items { locations, items, items_per_row })
    }

    /// The rows of these places among all, encoded.
    fn encoded_at(&mut self, encoder: &Encoder, places: &[u64]) -> Result<Vec<EncodedRow>, Failure> {
        let mut rows: Vec<Option<EncodedRow>> = places.iter().map(|&place| self.cached(place)).collect();
        let mut missing: Vec<usize> = (0..rows.len()).filter(|&row| rows[row].is_none()).collect();
        // In the order of the files: rows that a source decodes together are then read together.
        missing.sort_by_key(|&row| places[row]);
        let read = missing.iter().map(|&row| self.read(places[row])).collect::<Result<Vec<_>, _>>()?;
        let encode = |(location, example): &ReadRow| (*location, encoder.encode_read(example));
        let encoded: Vec<EncodedRow> = read.par_iter().map(encode).collect();
        for (row, (location, encoded)) in missing.into_iter().zip(encoded) {
            if let Ok(encoded) = &encoded {
                self.cache.put(places[row], location.row, encoded);
            }
            rows[row] = Some((location, encoded));
        }
        Ok(rows.into_iter().flatten().collect())
    }

    fn cached(&self, place: u64) -> Option<EncodedRow> {
        let (row, encoded) = self.cache.get(place)?;
        Some((RowLocation { source: self.source_of(place) as u32, row }, Ok(encoded)))
    }

    fn source_of(&self, place: u64) -> usize {
        self.ends.partition_point(|&end| end <= place)
    }

    fn read(&mut self, place: u64) -> Result<ReadRow, Failure> {
        if self.job.services.cancelled() {
            return Err(Failure::new(Status::Interrupted, "interrupted while rows were read"));
        }
        let number = self.source_of(place);
        let before = number.checked_sub(1).map_or(0, |number| self.ends[number]);
        let Some(Opened { source, number, .. }) = self.sources.get_mut(number) else { return Err(Failure::internal()) };
        let gone = || {
            Failure::new(Status::Input, "the data has fewer rows than it had before: it was changed")
                .at(&self.names[*number as usize])
        };
        let state = source.state_of(place - before)?.ok_or_else(gone)?;
        source.restore(&state)?;
        let RowBatch { rows, error } =
            source.batch(1).unwrap_or_else(|error| RowBatch { rows: Vec::new(), error: Some(error) });
        let skips = self.job.resolved.settings.data.on_bad_row == OnBadRow::Skip;
        match (rows.into_iter().next(), error) {
            (Some(row), _) => Ok((RowLocation { source: *number, row: row.example.row }, Ok(row.example))),
            (None, Some(error)) => match bad_row_number(&error).filter(|_| skips) {
                Some(row) => Ok((RowLocation { source: *number, row }, Err(error))),
                None => Err(error.into()),
            },
            (None, None) => Err(gone()),
        }
    }
}

/// Whether rows are to be read when their turn comes, if they can be.
fn is_wanted(settings: &Settings) -> bool {
    let size = |name: &String| Some(std::fs::metadata(name).ok()?.len());
    let is_large = || settings.data.train_names().iter().filter_map(size).sum::<u64>() >= LARGE;
    settings.data.lazy.unwrap_or_else(is_large)
}

/// Where the text of a compressed source of training rows is kept, so that these can be read in any order; none for others.
pub(super) fn unpacked(job: &Job, name: &str) -> Option<PathBuf> {
    let settings = &job.resolved.settings;
    let streams = settings.data.streaming == Some(true) || settings.data.is_weighted();
    if streams || !is_compressed(name) || !is_wanted(settings) {
        return None;
    }
    let cache = directory(settings)?;
    let content = content::of(Path::new(name), &cache, &|| job.services.cancelled()).ok()?;
    let (all, own) = (cache.join("unpacked"), cache.join("unpacked").join(content));
    cache::limit(&all, &own);
    Some(own.join("text"))
}

/// Whether lengths of all rows, or whether they repeat others, are to be known before the first update.
fn needs_lengths(settings: &Settings) -> bool {
    let Settings { data, trainer, .. } = settings;
    let splits = trainer.long_rows == LongRows::Split;
    data.deduplicate || trainer.bucketing || trainer.packing != Packing::None || splits
}

/// Whether items are packed before training: of items that are prepared, lengths are known then only.
pub(super) fn packs(settings: &Settings, encoder: &Encoder) -> bool {
    settings.trainer.packing == Packing::BestFit && !encoder.prepares()
}

/// The first source that is only read from its beginning.
fn not_in_any_order(sources: &mut [Opened], names: &[String]) -> Result<Option<String>, Failure> {
    for Opened { source, number, .. } in sources {
        if source.state_of(0)?.is_none() {
            let name = &names[*number as usize];
            return Ok(Some(format!(
                "{name} is read from its beginning: it is compressed and `data.cache` is false, or of another kind"
            )));
        }
    }
    Ok(None)
}

/// Where caches are, by the configuration or the user's directory of caches.
fn directory(settings: &Settings) -> Option<PathBuf> {
    use crate::config::CacheDirectory::{At, Default};
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    match &settings.data.cache {
        At(path) => Some(path.clone()),
        Default(false) => None,
        Default(true) => {
            let home = if cfg!(target_os = "macos") { "Library/Caches" } else { ".cache" };
            let caches = variable("XDG_CACHE_HOME").filter(|path| path.is_absolute());
            Some(caches.or_else(|| Some(variable("HOME")?.join(home)))?.join("mdt"))
        }
    }
}

/// Identifies rows and what they are turned into: the content of the sources; the components and all of their keys; the tokenizer's
/// files; the host's limits.
fn key(job: &Job, encoder: &Encoder, contents: &[String], tokenizer: &str) -> Result<String, Failure> {
    let settings = &job.resolved.settings;
    let kinds = [Kind::Data, Kind::Tokenizer, Kind::Trainer];
    let mut components = Vec::new();
    for (kind, id) in job.components().into_iter().filter(|(kind, _)| kinds.contains(kind)) {
        components.push(json!([kind.name(), id, job.catalog.checksum(kind, &id)?]));
    }
    let configs = kinds.map(|kind| job.resolved.component(kind).map(|chosen| chosen.config.clone()));
    let model = job.model_directory()?;
    let key = json!([
        env!("CARGO_PKG_VERSION"),
        contents,
        tokenizer,
        components,
        configs,
        encoder.identity(),
        model.config(),
        settings.seed,
    ]);
    Ok(checksum::of_bytes(key.to_string().as_bytes()))
}
