//! Connections that have not proved yet that they come from a rank. Their number is bounded, so that strangers can use
//! neither the memory nor the time of a job.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::task::{AbortHandle, JoinSet};

/// The most of them. A rank proves itself within milliseconds.
const PLACES: usize = 256;

/// Tasks that each bring one connection through its handshake.
///
/// When one more comes than there are places, one is ended: the oldest of the machine that holds the most. So a machine
/// that opens many connections loses its own, and keeps those of others out neither by staying nor by coming again.
#[derive(Default)]
pub(crate) struct Candidates {
    tasks: JoinSet<()>,
    places: VecDeque<Candidate>,
}

struct Candidate {
    machine: u128,
    vouched: Vouched,
    task: AbortHandle,
}

/// Set when a candidate has shown a certificate of the job's authority: strangers do not take its place.
#[derive(Clone, Default)]
pub(crate) struct Vouched(Arc<AtomicBool>);

impl Vouched {
    pub(crate) fn set(&self) {
        self.0.store(true, Relaxed);
    }
}

impl Candidates {
    /// Runs a handshake with a process of this machine; says whether another one was ended for it.
    pub(crate) fn admit(
        &mut self,
        machine: u128,
        vouched: Vouched,
        handshake: impl Future<Output = ()> + Send + 'static,
    ) -> bool {
        while self.tasks.try_join_next().is_some() {}
        self.places.retain(|candidate| !candidate.task.is_finished());
        let is_full = self.places.len() >= PLACES;
        if is_full && let Some(place) = self.victim() {
            self.places[place].task.abort();
            self.places.remove(place);
        }
        let task = self.tasks.spawn(handshake);
        self.places.push_back(Candidate { machine, vouched, task });
        is_full
    }

    /// The place of the candidate that is ended for another one.
    fn victim(&self) -> Option<usize> {
        let strangers = || self.places.iter().filter(|candidate| !candidate.vouched.0.load(Relaxed));
        let mut held = HashMap::<u128, usize>::new();
        strangers().for_each(|candidate| *held.entry(candidate.machine).or_default() += 1);
        let Some(most) = held.values().copied().max() else { return (!self.places.is_empty()).then_some(0) };
        self.places
            .iter()
            .position(|candidate| !candidate.vouched.0.load(Relaxed) && held.get(&candidate.machine) == Some(&most))
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    fn machines(candidates: &Candidates) -> Vec<u128> {
        candidates.places.iter().map(|candidate| candidate.machine).collect()
    }

    #[tokio::test]
    async fn a_machine_that_holds_the_most_places_loses_its_oldest() {
        let mut candidates = Candidates::default();
        candidates.admit(7, Vouched::default(), pending());
        for _ in 1..PLACES {
            candidates.admit(1, Vouched::default(), pending());
        }
        for machine in [1, 2, 1] {
            assert!(candidates.admit(machine, Vouched::default(), pending()));
        }
        let held = machines(&candidates);
        assert_eq!((held.len(), held[0], held[PLACES - 2]), (PLACES, 7, 2));
    }

    #[tokio::test]
    async fn who_has_shown_a_certificate_keeps_its_place() {
        let mut candidates = Candidates::default();
        let shown = Vouched::default();
        candidates.admit(1, shown.clone(), pending());
        shown.set();
        for _ in 0..2 * PLACES {
            candidates.admit(1, Vouched::default(), pending());
        }
        assert!(candidates.places[0].vouched.0.load(Relaxed));
        assert_eq!(candidates.places.len(), PLACES);
    }

    #[tokio::test]
    async fn a_place_is_free_when_its_handshake_is_over() {
        let mut candidates = Candidates::default();
        for _ in 0..4 * PLACES {
            assert!(!candidates.admit(1, Vouched::default(), std::future::ready(())));
            tokio::task::yield_now().await;
        }
    }
}
