//! Training rows that stream: one lane of all sources, or one for each, drawn from by weight.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::chain::{Chain, Opened, ReadRow};
use super::lane::{Lane, LanePlace, Windows};
use crate::exit::Failure;
use crate::job::Job;
use crate::random::Stream;

/// Training rows that stream, before the first one.
pub struct Streamed {
    /// The sources of each lane, and its weight.
    pub(super) lanes: Vec<(Vec<Opened>, f64)>,
    pub(super) windows: Windows,
    pub(super) seed: u64,
    pub(super) sources: Vec<String>,
    pub(super) job: Job,
}

/// A place between two rows, kept in checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The rows that were drawn before it.
    drawn: u64,
    lanes: Vec<LanePlace>,
}

/// The rows of a job in the order in which they are trained, the same on all ranks.
pub struct Rows {
    lanes: Vec<Lane>,
    /// The sum of the weights up to and with each lane.
    weights: Vec<f64>,
    seed: u64,
    drawn: u64,
}

impl Streamed {
    /// The sources of a job, a pass over which has so many rows.
    pub(super) fn of(job: &Job, sources: Vec<Opened>, rows: Option<u64>) -> Self {
        let settings = &job.resolved.settings;
        let data = &settings.data;
        let lanes = if data.is_weighted() {
            let mut groups: BTreeMap<usize, (Vec<Opened>, f64)> = BTreeMap::new();
            for opened in sources {
                let source = &data.train[opened.number as usize];
                let weight = source.weight.unwrap_or(1.0);
                groups.entry(source.group).or_insert((Vec::new(), weight)).0.push(opened);
            }
            groups.into_values().collect()
        } else {
            vec![(sources, 1.0)]
        };
        let windows = Windows {
            rows: usize::try_from(data.shuffle_buffer).unwrap_or(usize::MAX),
            shuffle: data.shuffle.then_some(settings.seed),
            limit: data.limit,
            held_out: Arc::default(),
            expected: rows,
            name: String::new(),
        };
        Self { lanes, windows, seed: settings.seed, sources: data.train_names(), job: job.clone() }
    }

    /// The number of rows of a pass that are held out.
    pub(super) fn held_out(&self) -> u64 {
        self.windows.held_out.len() as u64
    }

    /// Starts reading at a place.
    ///
    /// # Errors
    /// The place is none of this data.
    pub fn start(self, cursor: Cursor) -> Result<Rows, Failure> {
        let mut places = cursor.lanes.into_iter();
        let count = self.lanes.len();
        let (mut lanes, mut weights, mut sum) = (Vec::new(), Vec::new(), 0.0);
        for (number, (sources, weight)) in self.lanes.into_iter().enumerate() {
            let own = |seed| if count == 1 { seed } else { Stream::new(seed, "lane", number as u64).bits() };
            let name = sources.iter().map(|opened| self.sources[opened.number as usize].as_str());
            let name = name.collect::<Vec<_>>().join(", ");
            let windows = Windows { shuffle: self.windows.shuffle.map(own), name, ..self.windows.clone() };
            let chain = Chain::new(sources, &self.job);
            lanes.push(Lane::start(chain, windows, places.next().unwrap_or_default())?);
            sum += weight;
            weights.push(sum);
        }
        Ok(Rows { lanes, weights, seed: self.seed, drawn: cursor.drawn })
    }

    /// What streams, as a line for the user.
    pub fn summary(&self) -> String {
        let rows = self.windows.rows;
        let what = match self.lanes.as_slice() {
            [_] => self.sources.join(", "),
            lanes => {
                let name = |opened: &Opened| self.sources[opened.number as usize].as_str();
                let names = |lane: &[Opened]| lane.iter().map(name).collect::<Vec<_>>().join(", ");
                let shares = lanes.iter().map(|(lane, weight)| format!("{weight} × {}", names(lane)));
                shares.collect::<Vec<_>>().join(" + ")
            }
        };
        let order = if self.windows.shuffle.is_some() { "shuffled" } else { "read" };
        let held_out = match self.windows.held_out.len() {
            0 => String::new(),
            count => format!("; {count} rows held out"),
        };
        format!("{what}, streamed; {order} in windows of {rows} rows{held_out}")
    }

    /// The names of the sources.
    pub fn sources(&self) -> &[String] {
        &self.sources
    }

    /// Leaves these rows of each pass out.
    pub(super) fn leave_out(&mut self, rows: BTreeSet<u64>) {
        self.windows.held_out = Arc::new(rows);
    }
}

impl Rows {
    /// The next row, or none where a pass over the data ends. A mixture by weights has no passes: each source begins
    /// again where it ends.
    ///
    /// # Errors
    /// A row cannot be read, a source has no rows, or the job was cancelled.
    pub fn next(&mut self) -> Result<Option<ReadRow>, Failure> {
        if let [lane] = self.lanes.as_mut_slice() {
            return lane.next();
        }
        let draw =
            Stream::new(self.seed, "mixture", self.drawn).uniform() * self.weights.last().copied().unwrap_or(1.0);
        let chosen = self.weights.iter().position(|&weight| draw < weight).unwrap_or(self.weights.len() - 1);
        self.drawn += 1;
        loop {
            if let Some(row) = self.lanes[chosen].next()? {
                return Ok(Some(row));
            }
        }
    }

    /// Where the next row is.
    pub fn cursor(&self) -> Cursor {
        Cursor { drawn: self.drawn, lanes: self.lanes.iter().map(Lane::place).collect() }
    }
}
