//! The component `comm mlx`: the collectives that MLX itself brings.
//!
//! | `comm.backend` | what it is | ranks find each other by |
//! |---|---|---|
//! | `ring` | TCP between neighbours, on every platform | `comm.hosts`, or `MLX_HOSTFILE` of `mlx.launch`, or `comm.address` with `comm.port` + rank |
//! | `jaccl` | RDMA over Thunderbolt 5, where this MLX has it | `MLX_IBV_DEVICES` of `mlx.launch`, with `comm.address` and `comm.port` |
//! | `nccl` | NVIDIA's, where this MLX has it | `comm.address` and `comm.port` |
//! | `any` | `nccl` where this MLX has it and a GPU, `jaccl` where `MLX_IBV_DEVICES` is set, else `ring` | |
//!
//! What a host may rely on, and what not:
//!
//! - A sum of float32 is folded in the order of MLX's engine: equal on all ranks, but with more than two ranks not the bits of
//!   the pairwise tree. With `comm.exact = true`, and for all other types and operations always, the ranks gather each
//!   other's elements and fold them by the tree: n/2 times the bytes of a ring.
//! - Ranks that call different collectives all get an error that says what each called.
//! - Nothing is encrypted, and nobody has to prove anything: for networks that you trust.
//! - MLX has no deadlines and cannot be interrupted. A rank that is killed is an error for its neighbours in the ring as soon
//!   as they exchange something, and for the others when those end; one that is stopped is noticed by the host's
//!   `comm.timeout_s`. Neither can say which rank it was, unless there are two. While ranks wait they use a core each.

mod addresses;
mod group;

use std::time::{Duration, Instant};

use mdt_plugin_api::engine::{self, Course, Engine, EngineThread, FOLDED};
use mdt_plugin_api::{
    Bootstrap, Buffer, Capabilities, CommBackend, Component, Dtype, Error, ErrorCode, ReduceOp, Result, Services, Setup,
};

use addresses::Prepared;
use group::Group;

mdt_plugin_api::config! {
    /// An engine of MLX.
    pub enum EngineChoice {
        /// TCP between neighbours.
        Ring = "ring",
        /// RDMA over Thunderbolt 5.
        Jaccl = "jaccl",
        /// NVIDIA's collectives.
        Nccl = "nccl",
        /// The fastest one that this MLX has and that is set up.
        Any = "any",
    }
}

mdt_plugin_api::config! {
    /// Keys of the backend `mlx`.
    pub struct Config {
        /// The engine: `ring` (TCP), `jaccl` (RDMA over Thunderbolt 5), `nccl` (NVIDIA), or `any` for the fastest one that is
        /// set up.
        backend: EngineChoice = EngineChoice::Ring,
        /// Where each rank listens, in order of ranks, for the ring: IPv4 addresses or names, each with a port or at
        /// `comm.port` + rank. Default: the file in `MLX_HOSTFILE`, else all ranks at `comm.address`.
        hosts: Option<Vec<String>> = None,
        /// Fold sums by the pairwise tree, to the bits of other deterministic backends, with n/2 times the bytes.
        exact: bool = false,
        /// How long ranks wait for each other at the start, in seconds.
        connect_timeout_s: f64 [above 0.0..=86400.0] = 60.0,
    }
}

/// MLX's own collectives.
pub struct Distributed {
    config: Config,
    services: Services,
}

impl Component for Distributed {
    type Config = Config;

    fn create(config: Config, setup: &Setup) -> Result<Self> {
        Ok(Self { config, services: setup.services.clone() })
    }
}

impl CommBackend for Distributed {
    type Communicator = EngineThread;

    fn capabilities(&self) -> Result<Capabilities> {
        Ok(Capabilities { dtypes: FOLDED.to_vec(), deterministic: self.config.exact, ..Capabilities::default() })
    }

    /// # Errors
    /// This MLX does not have the engine; the addresses cannot be used; ranks that do not come within `connect_timeout_s`.
    fn open(&self, bootstrap: &Bootstrap) -> Result<EngineThread> {
        let &Bootstrap { rank, world_size, .. } = bootstrap;
        let name = self.engine()?;
        let prepared = match world_size {
            1 => None,
            _ => Some(addresses::prepare(name, self.config.hosts.as_deref(), bootstrap)?),
        };
        let exact = self.config.exact;
        let (begin, limit) = (Instant::now(), Duration::from_secs_f64(self.config.connect_timeout_s));
        let connect = move || {
            let mut prepared = prepared;
            let group = loop {
                prepared.as_mut().map_or(Ok(()), Prepared::rewind)?;
                match Group::connect(name, rank, world_size) {
                    // MLX tries for half a minute. The last rank has no other connection by then, and can try again.
                    Err(error) if is_refused(&error) && rank + 1 == world_size && begin.elapsed() < limit => {}
                    Err(error) if is_refused(&error) => {
                        let message =
                            format!("rank {rank} finds no rank {} where it should listen", (rank + 1) % world_size);
                        return Err(Error::new(ErrorCode::Peer, message)
                            .caused_by(error.message())
                            .help("start all ranks within half a minute, with the same addresses"));
                    }
                    group => break group?,
                }
            };
            Ok(Ranks { group, rank, world_size, exact })
        };
        EngineThread::start("mlx", bootstrap, &self.services, limit, connect)
    }
}

impl Distributed {
    /// MLX's name of the engine.
    fn engine(&self) -> Result<&'static str> {
        let name = match self.config.backend {
            EngineChoice::Ring => "ring",
            EngineChoice::Jaccl => "jaccl",
            EngineChoice::Nccl => "nccl",
            EngineChoice::Any if group::has("nccl") && crate::device::gpu_available() => "nccl",
            EngineChoice::Any if group::has("jaccl") && std::env::var_os("MLX_IBV_DEVICES").is_some() => "jaccl",
            EngineChoice::Any => "ring",
        };
        if group::has(name) {
            return Ok(name);
        }
        let message = format!("comm.backend is {name:?}, which this build of MLX does not have");
        Err(Error::config(message).with("key", "comm.backend").help("use \"ring\", which every MLX has"))
    }
}

/// The ranks of a job, connected by MLX.
struct Ranks {
    group: Group,
    rank: u32,
    world_size: u32,
    exact: bool,
}

/// Whether MLX says that a neighbour does not listen.
fn is_refused(error: &Error) -> bool {
    error.message().contains("Couldn't connect")
}

/// Bytes that are given to MLX at once: it reports progress between them, and some versions take no transfer of 2 GiB.
const CHUNK: usize = 16 << 20;

impl Engine for Ranks {
    fn gather(&mut self, own: &[u8], all: &mut [u8], course: &Course) -> Result<()> {
        course.check()?;
        self.group.all_gather(own, all).map_err(|error| self.lost(error))?;
        course.moved(own.len());
        Ok(())
    }

    fn all_reduce(&mut self, buffers: &mut [Buffer], op: ReduceOp, course: &Course) -> Result<()> {
        for buffer in buffers {
            match (op, buffer.dtype()) {
                (ReduceOp::Sum, Dtype::F32) if !self.exact => self.summed(Dtype::F32, buffer.bytes_mut(), course)?,
                _ => engine::fold_gathered(self, buffer, op, course)?,
            }
        }
        Ok(())
    }

    /// MLX has no broadcast: all others bring zeros, and bytes are added, so that every pattern of bits arrives as it was.
    fn broadcast(&mut self, buffers: &mut [Buffer], root: u32, course: &Course) -> Result<()> {
        for buffer in buffers {
            if self.rank != root {
                buffer.bytes_mut().fill(0);
            }
            self.summed(Dtype::U8, buffer.bytes_mut(), course)?;
        }
        Ok(())
    }
}

impl Ranks {
    fn summed(&mut self, dtype: Dtype, bytes: &mut [u8], course: &Course) -> Result<()> {
        for chunk in bytes.chunks_mut(CHUNK) {
            course.check()?;
            self.group.all_sum(dtype, chunk).map_err(|error| self.lost(error))?;
            course.moved(chunk.len());
        }
        Ok(())
    }

    /// What MLX says of a failed collective, with what is known of the rank that caused it.
    fn lost(&self, error: Error) -> Error {
        let (before, after) = ((self.rank + self.world_size - 1) % self.world_size, (self.rank + 1) % self.world_size);
        match before == after {
            true => Error::new(ErrorCode::Peer, format!("rank {after} was lost")).with("rank", after),
            false => Error::new(ErrorCode::Peer, format!("rank {before} or rank {after} was lost, or has ended")).help(
                "the neighbours in a ring see only each other: look for the first error in the other ranks' output",
            ),
        }
        .caused_by(error.message())
    }
}
