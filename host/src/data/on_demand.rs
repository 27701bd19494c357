//! Training rows that are read and encoded when their turn comes, in the order in which rows that are read whole would be trained: for
//! large sources whose rows can be read in any order.

use std::io;
use std::path::{Path, PathBuf};

use mdt_plugin_api::{HostServices, Kind, Length, RowBatch};
use rayon::prelude::*;
use serde_json::json;

use super::bad_rows::bad_row_number;
use super::cache::{self, Cache};
use super::chain::{Opened, ReadRow};
use super::dataset::Dataset;
use super::items::{EncodedRow, Encoder};
use super::read::Reader;
use super::row_location::RowLocation;
use super::sources::is_compressed;
use super::{content, split};
use crate::checksum;
use crate::config::{EvalSplit, LongRows, OnBadRow, Packing, Settings};
use crate::exit::{Failure, Status};
use crate::job::Job;
use crate::random::Stream;

/// The bytes of files from which on their rows are not all read before training, where `data.lazy` does not say it.
const LARGE: u64 = 64 << 20;

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
    cache: Cache,
    job: Job,
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
        let hindrance = match hindrance(settings) {
            None => not_in_any_order(&mut sources, &names)?,
            found => found,
        };
        match (settings.data.lazy, hindrance) {
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
        let contents = directory.as_ref().map(|cache| {
            let of = |name: &String| content::of(Path::new(name), cache, &|| job.services.cancelled());
            names.par_iter().map(of).collect::<io::Result<Vec<_>>>()
        });
        let cache = match contents {
            Some(Ok(contents)) => Cache::open(directory.as_deref(), &key(job, encoder, &contents, tokenizer)?),
            // What cannot be read is an error of the source.
            Some(Err(_)) | None => Cache::open(None, ""),
        };
        Ok(Ok(Self { sources, ends, rows, held_out: Vec::new(), names, cache, job: job.clone() }))
    }

    /// The number of rows that are trained.
    pub fn places(&self) -> usize {
        self.rows as usize - self.held_out.len()
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
        let count = split::count(split, self.places())?;
        let mut dataset = Dataset::empty(&self.names, tokenizer);
        let mut order: Vec<u64> = (0..self.rows).collect();
        Stream::new(self.job.resolved.settings.seed, "split", 0).shuffle(&mut order);
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
        let known = match self.cache.rows() {
            0 => String::new(),
            rows => format!("; {rows} of them are from the cache"),
        };
        let of = if self.held_out.is_empty() { String::new() } else { format!(" of {}", self.rows) };
        format!("{}{of} rows of {}, tokenized when their turn comes{known}", self.places(), self.names.join(", "))
    }

    /// The rows of these places, encoded.
    ///
    /// # Errors
    /// One cannot be read, and is not to be skipped; the job was cancelled.
    pub fn encoded(&mut self, encoder: &Encoder, places: &[usize]) -> Result<Vec<EncodedRow>, Failure> {
        let places: Vec<u64> = places.iter().map(|&place| self.place_of(place)).collect();
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
    if streams || !is_compressed(name) || hindrance(settings).is_some() || !is_wanted(settings) {
        return None;
    }
    let cache = directory(settings)?;
    let content = content::of(Path::new(name), &cache, &|| job.services.cancelled()).ok()?;
    let (all, own) = (cache.join("unpacked"), cache.join("unpacked").join(content));
    cache::limit(&all, &own);
    Some(own.join("text"))
}

/// What needs to know all rows before the first update.
fn hindrance(settings: &Settings) -> Option<String> {
    let (data, trainer) = (&settings.data, &settings.trainer);
    let keys = [
        ("data.deduplicate", data.deduplicate),
        ("trainer.bucketing", trainer.bucketing),
        ("trainer.packing", trainer.packing != Packing::None),
        ("trainer.long_rows = \"split\"", trainer.long_rows == LongRows::Split),
    ];
    keys.iter()
        .find(|(_, is_set)| *is_set)
        .map(|(key, _)| format!("`{key}` needs to know all rows before the first update"))
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
