//! Collectives over MPI: [`Mpi`], by the name `mpi`. For clusters that have one, under `mpirun` or `srun`:
//!
//! ```text
//! mpirun -n 8 mdt-host --config job.toml --config configs/clusters/mpi.toml
//! ```
//!
//! MPI moves bytes between the ranks, and this plugin folds them: each rank folds its part of a sum by the pairwise tree and
//! sends it to the others. So sums have the bits of every other deterministic backend, whatever algorithm the library would
//! choose for its own `MPI_Allreduce`, and all element types can be reduced. What a host may rely on:
//!
//! - Rank and number of ranks are MPI's; a configuration that has other ones is refused.
//! - Ranks that call different collectives all get an error that says what each called.
//! - A rank that does not join a collective, or with which nothing moves, is named after `comm.timeout_s`. A rank that aborts
//!   tells the others why. A rank that is killed ends the job: MPI cannot go on without it, and `mpirun` ends the other ranks,
//!   with SIGTERM first. Start the job again, and it goes on from its last checkpoint.
//! - A collective works in the buffers that it was given. Besides, it holds five pieces of 256 KiB per rank.
//! - Encryption is MPI's affair; most have none.
//!
//! All calls of MPI are made on one thread, so that a library with `MPI_THREAD_FUNNELED` suffices.

mod library;
mod ranks;
mod reduce;

use std::time::Duration;

use mdt_plugin_api::engine::{EngineThread, FOLDED};
use mdt_plugin_api::prelude::*;

use library::Library;
use ranks::Ranks;

mdt_plugin_api::config! {
    /// Keys of the backend `mpi`.
    pub struct Config {
        /// How long ranks wait for each other at the start, in seconds.
        connect_timeout_s: f64 [above 0.0..=86400.0] = 60.0,
        /// How long a rank in a collective waits for the others without progress, in seconds.
        timeout_s: f64 [above 0.0..=86400.0] = 30.0,
    }
}

/// The backend `mpi`.
pub struct Mpi {
    config: Config,
    services: Services,
}

impl Component for Mpi {
    type Config = Config;

    fn create(config: Config, setup: &Setup) -> Result<Self> {
        Ok(Self { config, services: setup.services.clone() })
    }
}

impl CommBackend for Mpi {
    type Communicator = EngineThread;

    fn capabilities(&self) -> Result<Capabilities> {
        Ok(Capabilities { dtypes: FOLDED.to_vec(), deterministic: true, ..Capabilities::default() })
    }

    /// # Errors
    /// MPI cannot be started, or has other ranks than the configuration; not all ranks come within `connect_timeout_s`.
    fn open(&self, bootstrap: &Bootstrap) -> Result<EngineThread> {
        let &Bootstrap { rank, world_size, .. } = bootstrap;
        let timeout = Duration::from_secs_f64(self.config.timeout_s);
        let connect = move || {
            let library = Library::start()?;
            let (rank_there, size_there) = (library.rank() as u32, library.size() as u32);
            if (rank_there, size_there) != (rank, world_size) {
                // Its end would wait for the other ranks.
                std::mem::forget(library);
                return Err(Error::config(format!(
                    "MPI has started rank {rank_there} of {size_there}, and the configuration has rank {rank} of {world_size}"
                ))
                .help("leave comm.rank and comm.world_size to mpirun or srun, which must be of the MPI that the plugin was built with"));
            }
            Ok(Ranks::new(library, timeout))
        };
        let limit = Duration::from_secs_f64(self.config.connect_timeout_s);
        EngineThread::start("mpi", bootstrap, &self.services, limit, connect)
    }
}

mdt_plugin_api::plugin! { comm "mpi" => Mpi: reduce_scatter; }
