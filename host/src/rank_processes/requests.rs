//! Signals that ask `launch` to stop.

use std::io;
use std::time::Instant;

use signal_hook::iterator::Signals;

use crate::exit::{Failure, Status};
use crate::signals::{SAME_REQUEST, stop_signals};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// The first one: all ranks save and end.
    Stop,
    /// One that comes more than a second later.
    StopAtOnce,
}

/// The signals that ask a launched job to stop, over all its starts.
pub struct StopRequests {
    signals: Signals,
    first: Option<Instant>,
}

impl StopRequests {
    /// From now on they are handled.
    pub fn new() -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::new(Status::Other, "signals cannot be handled").because(error);
        Ok(Self { signals: Signals::new(stop_signals()).map_err(failed)?, first: None })
    }

    /// What the signals ask for that have come since the last call.
    pub(super) fn next(&mut self) -> Option<Request> {
        if self.signals.pending().count() == 0 {
            return None;
        }
        match self.first {
            None => {
                self.first = Some(Instant::now());
                Some(Request::Stop)
            }
            Some(first) if first.elapsed() < SAME_REQUEST => None,
            Some(_) => Some(Request::StopAtOnce),
        }
    }

    /// Whether one has come.
    pub(super) fn have_come(&self) -> bool {
        self.first.is_some()
    }
}
