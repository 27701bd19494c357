//! The job as one rank sees it: what all parts of a communicator share.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use mdt_plugin_api::{Bootstrap, Services};
use tokio::sync::watch;

use crate::Config;
use crate::fault::Fault;
use crate::progress::Progress;
use crate::refusals::Refusals;
use crate::status::Board;
use crate::tls::Tls;
use crate::token::Token;

/// One rank's view of its job.
pub(crate) struct Job {
    /// The name of this start of the job.
    pub(crate) name: String,
    /// What the host says of this machine, for the job's status: its name, and its device as JSON.
    pub(crate) host: String,
    pub(crate) device: String,
    pub(crate) rank: u32,
    pub(crate) world_size: u32,
    /// The host's resolved configuration, the same on all ranks.
    pub(crate) identity: String,
    pub(crate) config: Config,
    pub(crate) services: Services,
    pub(crate) token: Token,
    /// Where connections are encrypted.
    pub(crate) tls: Option<Tls>,
    pub(crate) fault: Fault,
    pub(crate) progress: Arc<Progress>,
    pub(crate) refusals: Refusals,
    /// What the job's status says.
    pub(crate) board: Board,
    /// The ranks that this one waits for, until all are connected.
    awaited: Mutex<Vec<u32>>,
    /// Set when the communicator is dropped: a stream that ends after that is no fault.
    pub(crate) closing: AtomicBool,
    /// The ranks that have said goodbye.
    pub(crate) departed: watch::Sender<BTreeSet<u32>>,
}

impl Job {
    pub(crate) fn new(
        bootstrap: &Bootstrap,
        config: Config,
        services: Services,
        token: Token,
        tls: Option<Tls>,
    ) -> Self {
        let told = |name: &str| bootstrap.values.get(name).cloned().unwrap_or_default();
        Self {
            name: bootstrap.job.clone(),
            host: told("host"),
            device: told("device"),
            rank: bootstrap.rank,
            world_size: bootstrap.world_size,
            identity: bootstrap.identity.clone(),
            config,
            services,
            token,
            tls,
            fault: Fault::default(),
            progress: Arc::default(),
            refusals: Refusals::default(),
            board: Board::new(),
            awaited: Mutex::new(if bootstrap.rank == 0 { (1..bootstrap.world_size).collect() } else { vec![0] }),
            closing: AtomicBool::new(false),
            departed: watch::Sender::default(),
        }
    }

    /// Data connections with every other rank: those of collectives, and one in each direction for what is sent from rank to
    /// rank.
    pub(crate) fn lanes(&self) -> u32 {
        self.config.connections + 2
    }

    /// All ranks but this one.
    pub(crate) fn peers(&self) -> impl Iterator<Item = u32> {
        let own = self.rank;
        (0..self.world_size).filter(move |&rank| rank != own)
    }

    /// Notes that a rank has said goodbye.
    pub(crate) fn departed(&self, rank: u32) {
        self.departed.send_if_modified(|ranks| ranks.insert(rank));
    }

    /// Waits until a rank has said goodbye.
    pub(crate) async fn departure(&self, rank: u32) {
        // The sender is `self`, so the wait ends only with a goodbye.
        let _ = self.departed.subscribe().wait_for(|ranks| ranks.contains(&rank)).await;
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
