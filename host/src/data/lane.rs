//! Sources that stream: pass after pass, in windows that fit into memory, each in a random order of its own.
//!
//! A window is read ahead on a thread of its own. A resume reads the window again that it was in.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use mdt_plugin_api::Example;
use serde::{Deserialize, Serialize};

use super::chain::{Chain, Place, ReadRow};
use crate::exit::{Failure, Status};
use crate::random::Stream;

/// The size of examples in bytes from which on a window is full, whatever its number of rows.
const LARGEST: usize = 256 << 20;

/// How rows stream. The rows of a window depend on nothing else.
#[derive(Clone)]
pub(super) struct Windows {
    /// Rows of a window.
    pub(super) rows: usize,
    /// The seed of the orders; none keeps the rows as they come.
    pub(super) shuffle: Option<u64>,
    /// The most rows of a pass.
    pub(super) limit: Option<u64>,
    /// Rows that are held out, by their number in a pass, from 0.
    pub(super) held_out: Arc<BTreeSet<u64>>,
    /// How many rows a pass has, where that is known.
    pub(super) expected: Option<u64>,
    /// What the sources are called.
    pub(super) name: String,
}

/// Where a window begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Start {
    /// The number of the pass, from 0.
    pass: u64,
    /// The number of the window in its pass, from 0.
    window: u64,
    place: Place,
}

/// A place between two rows of a lane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LanePlace {
    start: Start,
    /// The rows of the window before it.
    taken: usize,
}

struct Window {
    start: Start,
    rows: Vec<Option<ReadRow>>,
    /// Whether the pass ends with it.
    last: bool,
}

/// One stream of rows.
pub(super) struct Lane {
    windows: Receiver<Result<Window, Failure>>,
    window: Window,
    taken: usize,
}

impl Lane {
    /// Starts reading at a place.
    pub(super) fn start(mut chain: Chain, windows: Windows, place: LanePlace) -> Result<Self, Failure> {
        let LanePlace { start, taken } = place;
        chain.restore(start.place.clone())?;
        let (sender, receiver) = sync_channel(1);
        let mut next = start.clone();
        let read = move || {
            loop {
                let window = windows.read(&mut chain, &mut next);
                let ended = window.is_err();
                if sender.send(window).is_err() || ended {
                    return;
                }
            }
        };
        thread::Builder::new()
            .name("read".to_owned())
            .spawn(read)
            .map_err(|error| Failure::new(Status::Other, "no thread can be started").because(error))?;
        let mut lane = Self { windows: receiver, window: Window { start, rows: Vec::new(), last: false }, taken: 0 };
        if taken > 0 {
            lane.next_window()?;
            lane.taken = taken;
            if taken > lane.window.rows.len() {
                return Err(Failure::new(Status::Input, "the data has changed since the checkpoint was written"));
            }
        }
        Ok(lane)
    }

    /// The next row, or none where a pass ends.
    pub(super) fn next(&mut self) -> Result<Option<ReadRow>, Failure> {
        loop {
            if let Some(row) = self.window.rows.get_mut(self.taken) {
                self.taken += 1;
                // Each is taken once.
                return Ok(row.take());
            }
            let ended = std::mem::take(&mut self.window.last);
            if ended {
                return Ok(None);
            }
            self.next_window()?;
        }
    }

    fn next_window(&mut self) -> Result<(), Failure> {
        let ended = || Failure::new(Status::Other, "the thread that reads rows has ended");
        self.window = self.windows.recv().map_err(|_| ended())??;
        self.taken = 0;
        Ok(())
    }

    /// Where the next row is.
    pub(super) fn place(&self) -> LanePlace {
        LanePlace { start: self.window.start.clone(), taken: self.taken }
    }
}

impl Windows {
    /// Reads a window, and moves `next` to the one after it.
    fn read(&self, chain: &mut Chain, next: &mut Start) -> Result<Window, Failure> {
        let start = Start { place: chain.place().clone(), ..next.clone() };
        let (mut rows, mut size) = (Vec::new(), 0);
        let last = loop {
            if rows.len() == self.rows || size >= LARGEST {
                break false;
            }
            let number = chain.place().row;
            if self.limit.is_some_and(|limit| number >= limit) {
                break true;
            }
            let Some(row) = chain.next()? else { break true };
            if !self.held_out.contains(&number) {
                size += row.1.as_ref().map_or(0, Example::size);
                rows.push(row);
            }
        };
        if last {
            self.check_pass(chain.place().row)?;
            chain.restore(Place::default())?;
            *next = Start { pass: start.pass + 1, ..Start::default() };
        } else {
            next.window += 1;
        }
        Ok(Window { rows: self.shuffled(&start, rows), start, last })
    }

    /// The rows in the order in which they are trained. A pass of one window has the order of rows that are read whole.
    fn shuffled<T>(&self, start: &Start, rows: Vec<T>) -> Vec<Option<T>> {
        let mut rows: Vec<Option<T>> = rows.into_iter().map(Some).collect();
        let Some(seed) = self.shuffle else { return rows };
        let seed = match start.window {
            0 => seed,
            window => Stream::new(seed, "window", window).bits(),
        };
        Stream::new(seed, "order", start.pass).shuffle(&mut rows);
        rows
    }

    fn check_pass(&self, rows: u64) -> Result<(), Failure> {
        let failure = |message: String| Err(Failure::new(Status::Input, message).at(&self.name));
        match self.expected {
            Some(expected) if rows != expected => failure(format!(
                "the data has {rows} rows, and said before that it has {expected}: it was changed, or it counts wrongly"
            )),
            _ if rows <= self.held_out.len() as u64 => failure("the data has no rows".to_owned()),
            _ => Ok(()),
        }
    }
}
