//! What all parts of a communicator share.

use std::sync::atomic::AtomicBool;

use mdt_plugin_api::{Bootstrap, Services};

use crate::Config;
use crate::fault::Fault;

/// This rank's place in its job, and what has become of the job.
pub(crate) struct Job {
    pub(crate) rank: u32,
    pub(crate) world_size: u32,
    /// The host's resolved configuration, the same on all ranks.
    pub(crate) identity: String,
    pub(crate) config: Config,
    pub(crate) services: Services,
    pub(crate) fault: Fault,
    /// Set when the communicator is dropped: what ends after that was not lost.
    pub(crate) closing: AtomicBool,
}

impl Job {
    pub(crate) fn new(bootstrap: &Bootstrap, config: Config, services: Services) -> Self {
        Self {
            rank: bootstrap.rank,
            world_size: bootstrap.world_size,
            identity: bootstrap.job.clone(),
            config,
            services,
            fault: Fault::default(),
            closing: AtomicBool::new(false),
        }
    }

    /// All ranks but this one.
    pub(crate) fn peers(&self) -> impl Iterator<Item = u32> {
        let own = self.rank;
        (0..self.world_size).filter(move |&rank| rank != own)
    }
}
