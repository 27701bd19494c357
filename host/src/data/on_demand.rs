//! Training rows that are read and encoded when their turn comes, in the order in which rows that are read whole would be trained: for
//! large sources whose rows can be read in any order.

use std::path::PathBuf;

use mdt_plugin_api::{HostServices, Kind, Length, RowBatch};
use rayon::prelude::*;
use serde_json::json;

use super::bad_rows::bad_row_number;
use super::cache::Cache;
use super::chain::{Opened, ReadRow};
use super::items::{EncodedRow, Encoder};
use super::length;
use super::row_location::RowLocation;
use crate::checksum;
use crate::config::{LongRows, OnBadRow, Packing, Settings};
use crate::exit::{Failure, Status};
use crate::job::Job;

/// The bytes of files from which on their rows are not all read before training, where `data.lazy` does not say it.
const LARGE: u64 = 64 << 20;

/// Training rows, none of which is read yet.
pub struct OnDemand {
    sources: Vec<Opened>,
    /// For each source, the rows up to and with its last one.
    ends: Vec<u64>,
    places: usize,
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
        let hindrance = match hindrance(settings) {
            None => not_in_any_order(&mut sources, &names)?,
            found => found,
        };
        let bytes: u64 = names.iter().filter_map(|name| Some(std::fs::metadata(name).ok()?.len())).sum();
        match (settings.data.lazy, hindrance) {
            (Some(true), Some(why)) => {
                return Err(Failure::configuration(
                    "`data.lazy` is true, and rows cannot be read when their turn comes",
                )
                .because(why)
                .help("remove one of the two"));
            }
            (Some(true), None) => {}
            (None, None) if bytes >= LARGE => {}
            _ => return Ok(Err(sources)),
        }
        let mut ends = Vec::new();
        for opened in &mut sources {
            let Length::Rows(rows) = opened.source.length()? else { return Ok(Err(sources)) };
            ends.push(ends.last().unwrap_or(&0) + rows);
        }
        let rows = ends.last().copied().unwrap_or(0).min(settings.data.limit.unwrap_or(u64::MAX));
        let cache = Cache::open(directory(settings).as_deref(), &key(job, encoder, tokenizer)?);
        Ok(Ok(Self { sources, ends, places: rows as usize, names, cache, job: job.clone() }))
    }

    /// The number of rows.
    pub fn places(&self) -> usize {
        self.places
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
        format!("{} rows of {}, tokenized when their turn comes{known}", self.places, self.names.join(", "))
    }

    /// The rows of these places, encoded.
    ///
    /// # Errors
    /// One cannot be read, and is not to be skipped; the job was cancelled.
    pub fn encoded(&mut self, encoder: &Encoder, places: &[usize]) -> Result<Vec<EncodedRow>, Failure> {
        let mut known = Vec::with_capacity(places.len());
        let mut read = Vec::new();
        for &place in places {
            let cached = self.cache.get(place as u64);
            if cached.is_none() {
                read.push(self.read(place as u64)?);
            }
            known.push(cached);
        }
        let encoded: Vec<EncodedRow> =
            read.par_iter().map(|(location, example)| (*location, encoder.encode_read(example))).collect();
        let mut encoded = encoded.into_iter();
        let mut rows = Vec::with_capacity(places.len());
        for (&place, cached) in places.iter().zip(known) {
            let row = match cached {
                Some((row, encoded)) => {
                    Some((RowLocation { source: self.source_of(place as u64) as u32, row }, Ok(encoded)))
                }
                None => encoded.next().inspect(|(location, row)| {
                    if let Ok(row) = row {
                        self.cache.put(place as u64, location.row, row);
                    }
                }),
            };
            rows.extend(row);
        }
        Ok(rows)
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

/// What needs to know all rows before the first update.
fn hindrance(settings: &Settings) -> Option<String> {
    let (data, trainer) = (&settings.data, &settings.trainer);
    let keys = [
        ("data.deduplicate", data.deduplicate),
        ("data.eval_split", data.eval_split.is_some()),
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
                "{name} is read from its beginning: it is compressed, one JSON array, or of another kind"
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

/// Identifies rows and what they are turned into: the content of the sources, by size, time and samples; the components and all of
/// their keys; the tokenizer's files; the host's limits.
fn key(job: &Job, encoder: &Encoder, tokenizer: &str) -> Result<String, Failure> {
    let settings = &job.resolved.settings;
    let kinds = [Kind::Data, Kind::Tokenizer, Kind::Trainer];
    let mut components = Vec::new();
    for (kind, id) in job.components().into_iter().filter(|(kind, _)| kinds.contains(kind)) {
        components.push(json!([kind.name(), id, job.catalog.checksum(kind, &id)?]));
    }
    let configs = kinds.map(|kind| job.resolved.component(kind).map(|chosen| chosen.config.clone()));
    let names = settings.data.train_names();
    let times = names.iter().map(|name| {
        let modified = std::fs::metadata(name).and_then(|file| file.modified()).ok();
        modified
            .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
            .map(|time| time.as_nanos().to_string())
    });
    let model = job.model_directory()?;
    let key = json!([
        env!("CARGO_PKG_VERSION"),
        length::fingerprint(settings, tokenizer)?,
        times.collect::<Vec<_>>(),
        components,
        configs,
        encoder.identity(),
        model.config(),
        settings.seed,
    ]);
    Ok(checksum::of_bytes(key.to_string().as_bytes()))
}
