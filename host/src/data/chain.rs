//! Sources one after the other: their rows in the order of the files, from any place on.

use std::collections::VecDeque;
use std::sync::Arc;

use mdt_plugin_api::{DataSource, Error, Example, HostServices, Row, RowBatch};
use serde::{Deserialize, Serialize};

use super::bad_rows::{bad_row_number, is_of_a_row};
use super::row_location::RowLocation;
use crate::config::OnBadRow;
use crate::exit::{Failure, Status};
use crate::job::Job;
use crate::services::LocalServices;

/// A row as it was read: where it is, and what it holds or what is wrong with it.
pub type ReadRow = (RowLocation, Result<Example, Error>);

/// The most rows that one call of a source gives.
const BATCH: usize = 256;

/// A source that is open.
pub(super) struct Opened {
    /// Its number among the sources of the job.
    pub(super) number: u32,
    pub(super) source: Box<dyn DataSource>,
    /// Its state before the first row.
    first: String,
    /// Whether it is elsewhere.
    moved: bool,
}

impl Opened {
    pub(super) fn new(number: usize, source: Box<dyn DataSource>) -> Result<Self, Failure> {
        let first = source.state()?;
        Ok(Self { number: number as u32, source, first, moved: false })
    }
}

/// A place between two rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// The rows before it, of all sources.
    pub(super) row: u64,
    /// The index of the source that the next row is looked for in.
    source: usize,
    /// The state of that source; none before its first row.
    state: Option<String>,
}

/// Sources one after the other.
pub(super) struct Chain {
    sources: Vec<Opened>,
    place: Place,
    /// Rows that were read ahead, and the error after them.
    ahead: VecDeque<Row>,
    error: Option<Error>,
    on_bad_row: OnBadRow,
    services: Arc<LocalServices>,
}

impl Chain {
    /// The sources, before their first row.
    pub(super) fn new(sources: Vec<Opened>, job: &Job) -> Self {
        let (on_bad_row, services) = (job.resolved.settings.data.on_bad_row, Arc::clone(&job.services));
        Self { sources, place: Place::default(), ahead: VecDeque::new(), error: None, on_bad_row, services }
    }

    /// Where the next row is.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// The number of the source that the next row is looked for in, or of the last one.
    pub(super) fn source_number(&self) -> usize {
        self.sources.get(self.place.source).or(self.sources.last()).map_or(0, |opened| opened.number as usize)
    }

    /// The sources, before their first row.
    pub(super) fn into_sources(mut self) -> Result<Vec<Opened>, Failure> {
        self.restore(Place::default())?;
        Ok(self.sources)
    }

    /// Continues at a place.
    pub(super) fn restore(&mut self, place: Place) -> Result<(), Failure> {
        self.ahead.clear();
        self.error = None;
        if let Some(Opened { source, first, moved, .. }) = self.sources.get_mut(place.source)
            && (*moved || place.state.is_some())
        {
            source.restore(place.state.as_deref().unwrap_or(first))?;
            *moved = place.state.is_some();
        }
        self.place = place;
        Ok(())
    }

    /// The next row, or none after the last row of the last source. A row that cannot be read is one, too, where these are
    /// skipped.
    ///
    /// # Errors
    /// A row cannot be read, or the job was cancelled.
    pub(super) fn next(&mut self) -> Result<Option<ReadRow>, Failure> {
        loop {
            let Some(opened) = self.sources.get_mut(self.place.source) else { return Ok(None) };
            if let Some(Row { example, state }) = self.ahead.pop_front() {
                self.place.row += 1;
                self.place.state = Some(state);
                return Ok(Some((RowLocation { source: opened.number, row: example.row }, Ok(example))));
            }
            if let Some(error) = self.error.take() {
                return self.bad_row(error).map(Some);
            }
            if self.services.cancelled() {
                return Err(Failure::new(Status::Interrupted, "interrupted while rows were read"));
            }
            opened.moved = true;
            let RowBatch { rows, error } = match opened.source.batch(BATCH) {
                Ok(batch) => batch,
                Err(error) => RowBatch { rows: Vec::new(), error: Some(error) },
            };
            if rows.is_empty() && error.is_none() {
                let source = self.place.source + 1;
                self.restore(Place { row: self.place.row, source, state: None })?;
            } else {
                self.ahead = rows.into();
                self.error = error;
            }
        }
    }

    /// A row that the source could not read. The source goes on behind it, if that is where it says to be: what cannot be read at
    /// all has nothing behind it.
    fn bad_row(&mut self, error: Error) -> Result<ReadRow, Failure> {
        let Some(opened) = self.sources.get(self.place.source) else { return Err(error.into()) };
        if self.on_bad_row == OnBadRow::Error {
            return Err(Failure::from(error));
        }
        let before = self.place.state.as_ref().unwrap_or(&opened.first);
        let after = opened.source.state().ok().filter(|after| after != before && is_of_a_row(&error));
        let Some(after) = after else { return Err(error.into()) };
        self.place.row += 1;
        self.place.state = Some(after);
        let row = bad_row_number(&error).unwrap_or(self.place.row);
        Ok((RowLocation { source: opened.number, row }, Err(error)))
    }
}
