//! Where the result of a collective is put and taken.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::{Buffer, Error, Outcome, Result};

/// The result of one collective, once it is there.
#[derive(Default)]
pub(super) struct Slot {
    state: Mutex<State>,
    filled: Condvar,
    /// Bytes that were moved so far.
    pub(super) moved: Arc<AtomicU64>,
}

#[derive(Default)]
enum State {
    #[default]
    Empty,
    Filled(Result<Vec<Buffer>>),
    Taken,
}

impl Slot {
    /// Puts the result there, unless there was one already.
    pub(super) fn fill(&self, result: Result<Vec<Buffer>>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Empty = *state {
            *state = State::Filled(result);
            self.filled.notify_all();
        }
    }

    /// Takes the result, once.
    pub(super) fn wait(&self, deadline: Duration) -> Result<Outcome> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.filled.wait_timeout_while(state, deadline, |state| matches!(state, State::Empty));
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, State::Taken) {
            State::Empty => {
                *state = State::Empty;
                Ok(Outcome::TimedOut)
            }
            State::Filled(result) => result.map(Outcome::Done),
            State::Taken => Err(Error::plugin("the result of the collective was taken")),
        }
    }
}
