//! What is known of a job at any moment.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use mdt_plugin_api::serde_json::{self, Value};

use super::contract::{Device, Rank, State};

/// What is known of a job: rank 0 writes to it, and its status is read from it.
pub(crate) struct Board {
    /// Collectives that are finished.
    pub(crate) collectives: AtomicU64,
    known: Mutex<Known>,
}

/// What changes rarely.
struct Known {
    ranks: BTreeMap<u32, Rank>,
    /// What carries data between each rank and this one. It is known before a rank has said who it is.
    transports: BTreeMap<u32, &'static str>,
    all_connected: bool,
    /// The progress that was seen last, and when it had changed.
    progress: (u64, Instant),
}

impl Board {
    pub(crate) fn new() -> Self {
        let (ranks, transports) = Default::default();
        let known = Known { ranks, transports, all_connected: false, progress: (0, Instant::now()) };
        Self { collectives: AtomicU64::new(0), known: Mutex::new(known) }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A rank has come. `device` is what its host has said of what it computes on.
    pub(crate) fn came(&self, rank: u32, host: &str, address: &str, device: &str) {
        let (host, address) = (host.to_owned(), address.to_owned());
        let found = Rank { rank, present: true, host, address, device: read_device(device), ..Rank::default() };
        self.known().ranks.insert(rank, found);
    }

    /// A rank is gone.
    pub(crate) fn left(&self, rank: u32) {
        self.known().ranks.remove(&rank);
    }

    /// What carries data between a rank and this one.
    pub(crate) fn reached_by(&self, rank: u32, transport: &'static str) {
        self.known().transports.insert(rank, transport);
    }

    /// All ranks are connected.
    pub(crate) fn connected(&self) {
        self.known().all_connected = true;
    }

    /// All ranks in order, and of those that have not come the numbers.
    pub(super) fn ranks(&self, world_size: u32) -> Vec<Rank> {
        let known = self.known();
        let rank = |rank| match known.ranks.get(&rank) {
            Some(found) => {
                let transport = known.transports.get(&rank).copied().unwrap_or_default();
                Rank { transport: transport.to_owned(), ..found.clone() }
            }
            None => Rank { rank, ..Rank::default() },
        };
        (0..world_size).map(rank).collect()
    }

    pub(super) fn state(&self) -> State {
        if self.known().all_connected { State::Running } else { State::Meeting }
    }

    /// Takes the number that grows with progress, as it is now.
    pub(super) fn saw(&self, progress: u64) {
        let mut known = self.known();
        if known.progress.0 != progress {
            known.progress = (progress, Instant::now());
        }
    }

    /// Seconds since it had another value.
    pub(super) fn seconds_since_progress(&self) -> f64 {
        self.known().progress.1.elapsed().as_secs_f64()
    }

    pub(super) fn finished(&self) -> u64 {
        self.collectives.load(Relaxed)
    }
}

/// Reads a host's description of its device, which a later host may have changed.
fn read_device(text: &str) -> Option<Device> {
    let described: Value = serde_json::from_str(text).ok()?;
    let word = |key: &str| described[key].as_str().unwrap_or_default().to_owned();
    let list = described["fast_products"].as_array().into_iter().flatten();
    Some(Device {
        kind: word("kind"),
        name: word("name"),
        library: word("library"),
        unified_memory: described["unified_memory"].as_bool().unwrap_or_default(),
        threads: described["threads"].as_u64().and_then(|threads| threads.try_into().ok()).unwrap_or_default(),
        fast_products: list.filter_map(|name| name.as_str().map(str::to_owned)).collect(),
    })
}
