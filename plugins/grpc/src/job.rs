//! The job as one rank sees it: what all parts of a communicator share.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use mdt_plugin_api::{Bootstrap, Services};
use tokio::sync::watch;

use crate::Config;
use crate::fault::Fault;
use crate::progress::Progress;
use crate::token::Token;

/// One rank's view of its job.
pub(crate) struct Job {
    pub(crate) rank: u32,
    pub(crate) world_size: u32,
    /// The host's resolved configuration, the same on all ranks.
    pub(crate) identity: String,
    pub(crate) config: Config,
    pub(crate) services: Services,
    pub(crate) token: Token,
    pub(crate) fault: Fault,
    pub(crate) progress: Arc<Progress>,
    /// The ranks that have left the job with a goodbye.
    pub(crate) departed: watch::Sender<Vec<u32>>,
    /// Whether the user was warned of a process with another token or another version.
    pub(crate) warned: AtomicBool,
    /// The ranks that this one waits for, until all are connected.
    awaited: Mutex<Vec<u32>>,
    /// Set when the communicator is dropped: a stream that ends after that is no fault.
    pub(crate) closing: AtomicBool,
}

impl Job {
    pub(crate) fn new(bootstrap: &Bootstrap, config: Config, services: Services, token: Token) -> Self {
        Self {
            rank: bootstrap.rank,
            world_size: bootstrap.world_size,
            identity: bootstrap.identity.clone(),
            config,
            services,
            token,
            fault: Fault::default(),
            progress: Arc::new(Progress::new(bootstrap.world_size)),
            departed: watch::Sender::default(),
            warned: AtomicBool::new(false),
            awaited: Mutex::new(if bootstrap.rank == 0 { (1..bootstrap.world_size).collect() } else { vec![0] }),
            closing: AtomicBool::new(false),
        }
    }

    /// All ranks but this one.
    pub(crate) fn peers(&self) -> impl Iterator<Item = u32> {
        let own = self.rank;
        (0..self.world_size).filter(move |&rank| rank != own)
    }

    /// Notes which ranks this one waits for, for the error when the job is cancelled meanwhile.
    pub(crate) fn waits_for(&self, ranks: Vec<u32>) {
        *self.awaited.lock().unwrap_or_else(PoisonError::into_inner) = ranks;
    }

    /// The ranks that this one waits for.
    pub(crate) fn awaited(&self) -> Vec<u32> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
