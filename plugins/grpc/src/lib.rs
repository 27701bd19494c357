//! Collectives between machines over gRPC: [`Grpc`], by the name `grpc`. The observer `job_status` adds to the job's status
//! how far training has come.
//!
//! The ranks of a job meet at rank 0 (`comm.address`, `comm.port`), which checks that all of them run the same job and
//! hands out the roster. After that every two ranks share a control stream and data streams, without a rank in the middle.
//! Payload is sent from the memory that a collective was given, and received there. The contract of all is
//! `proto/mdt/collectives/v1/collectives.proto`. Every connection begins with a handshake in which both ranks prove that
//! they know the job token; nothing else is said to a process that does not. Where other machines could listen in,
//! connections are encrypted, and both sides have a certificate of the job's authority (`comm.tls`).
//!
//! Where all ranks run on one host of Linux, payload goes through memory that they share (`comm.shared_memory`); the streams
//! then carry signs of life and faults only. All that follows holds there too.
//!
//! What a host may rely on:
//!
//! - Sums, maxima and minima are folded by the pairwise tree over ranks, each element by itself, so the bits depend on
//!   the inputs only: not on timing, not on the sizes of buffers, and they are the same on every rank.
//! - A collective ends when all ranks have joined it. If one has called something else, all get an error that says what
//!   each called.
//! - A rank that is killed, also while ranks still wait for each other, is named by all others within a second; one that
//!   is stopped or cut off, within five. The first cause is reported on all ranks: a rank that fails because another was
//!   lost is not blamed.
//! - A collective may take as long as data moves. A rank that has not joined it, or with which nothing moves, is named
//!   after `comm.timeout_s` without progress. A host should wait longer than that: its own limit names no rank.
//! - Every chunk that is sent has a checksum. Data that was damaged on the way is an error that names its sender, never a result.
//! - After an error all later collectives fail with the same one, and what buffers hold is undefined.
//! - Memory: a collective works in the buffers that it was given. Besides, it holds at most eight chunks of
//!   `comm.chunk_kib` per peer and connection. Where ranks share memory, it is about 4.5 MiB per rank, whatever the payload.
//! - f16 and bf16 are folded in f32 and rounded once. A mean is the sum, divided once.
//! - Up to 16 ranks, everybody folds a part of a large payload and sends it to all others. More ranks halve it again and
//!   again, over the same tree.

mod address;
mod call;
mod candidates;
mod checksum;
mod communicator;
mod connection;
mod data_stream;
mod engine;
mod fault;
mod handshake;
mod http2;
mod job;
mod lanes;
mod link;
mod listener;
mod memory;
mod mesh;
mod messages;
mod open;
mod operation;
mod place;
mod point_to_point;
mod private_file;
mod progress;
mod refusals;
mod rendezvous;
mod server;
#[cfg_attr(not(all(target_os = "linux", target_pointer_width = "64")), path = "shared_memory/elsewhere.rs")]
mod shared_memory;
mod status;
mod stream;
mod tls;
mod token;
mod transport;
mod wire;

use mdt_plugin_api::engine::FOLDED;
use mdt_plugin_api::prelude::*;

use crate::call::OPS;
pub use crate::communicator::Ranks;
use crate::job::Job;
use crate::shared_memory::SharedMemory;
pub use crate::status::JobStatusObserver;
use crate::tls::Tls;
use crate::token::Token;

/// The largest number of ranks: each holds a connection to every other.
const MAX_WORLD_SIZE: u32 = 64;

mdt_plugin_api::config! {
    /// Whether ranks exchange data through shared memory.
    pub enum SharedMemoryUse {
        /// Where all ranks run on one host and can share memory.
        Auto = "auto",
        /// Never: over TCP.
        Off = "off",
    }
}

mdt_plugin_api::config! {
    /// Keys of the backend `grpc`.
    pub struct Config {
        /// How long ranks wait for each other at the start, in seconds.
        connect_timeout_s: f64 = 60.0,
        /// How long a rank in a collective waits for the others without progress, in seconds.
        timeout_s: f64 = 30.0,
        /// Data connections between every two ranks, from 1 to 16. Large payloads are divided among them, and each is folded
        /// by a thread of its own.
        connections: u32 = 1,
        /// Payload of one message between two ranks in KiB, from 4 to 1024.
        chunk_kib: u32 = 256,
        /// Payloads of at most so many KiB, up to 1048576, go whole to every rank, and each folds all of them: one step instead
        /// of two. Default: 64, and 1024 between two ranks, to which it is no more bytes.
        whole_kib: Option<u32> = None,
        /// Whether ranks that all run on one host exchange data through shared memory.
        shared_memory: SharedMemoryUse = SharedMemoryUse::Auto,
        /// The certificates of this machine, with which connections over TCP are encrypted and both sides are verified;
        /// `mdt-host certs new` makes them. Needed at addresses that other machines can reach.
        tls: Option<TlsFiles> = None,
        /// Accept addresses that other machines can reach without `tls`: for networks that you trust.
        insecure: bool = false,
        /// A file with the job token, the secret by which the ranks of a job know each other. Only its owner may have
        /// access to it. Default: the token is in the environment variable `MDT_JOB_TOKEN`, which `mdt-host launch` sets.
        token_file: Option<String> = None,
        /// The host name or address at which this rank listens, such as 0.0.0.0 for all. Default: rank 0 listens at
        /// `address`, another rank at the address from which it reaches rank 0.
        bind: Option<String> = None,
        /// The network interface at whose address this rank listens, where `bind` is not set: `eth1`.
        interface: Option<String> = None,
        /// The host name or address at which other ranks reach this one, where that is not where it listens. Rank 0 is reached
        /// at `address`.
        advertise: Option<String> = None,
        /// The ports at which ranks other than 0 listen: one, or a range that all ranks of a machine share, such as
        /// `50052-50060`. Default: any that is free.
        ports: Option<String> = None,
        /// The port at which rank 0 tells gRPC clients how the job is doing. Whoever asks needs the job token, and a
        /// certificate where `tls` is set. Default: none.
        status_port: Option<u16> [1..] = None,
        /// The host name or address of `status_port`.
        status_address: String = "127.0.0.1".into(),
    }
}

mdt_plugin_api::config! {
    /// The certificates of a machine, in the PEM format.
    pub struct TlsFiles {
        /// The authority that has signed the certificates of all machines of the job.
        ca: String = String::new(),
        /// The certificate of this machine. It is for the name or address by which other ranks reach the machine.
        cert: String = String::new(),
        /// The private key of the certificate. Only its owner may have access to it.
        key: String = String::new(),
    }
}

impl Config {
    /// The largest payload that goes whole to every rank.
    fn whole_bytes(&self, world_size: u32) -> usize {
        let kib = self.whole_kib.unwrap_or(if world_size == 2 { 1024 } else { 64 });
        (kib as usize) << 10
    }

    /// Payload of one message.
    fn chunk_bytes(&self) -> usize {
        (self.chunk_kib as usize) << 10
    }
}

/// The backend `grpc`.
pub struct Grpc {
    config: Config,
    services: Services,
}

impl Component for Grpc {
    type Config = Config;

    fn create(config: Config, setup: &Setup) -> Result<Self> {
        for (key, seconds) in [("connect_timeout_s", config.connect_timeout_s), ("timeout_s", config.timeout_s)] {
            // A day is longer than anybody waits, and short enough for every clock.
            if !(seconds > 0.0 && seconds <= 86400.0) {
                return Err(Error::config(format!("comm.{key} must be above 0 and at most 86400, not {seconds}"))
                    .with("key", format!("comm.{key}")));
            }
        }
        for (key, value, range) in [
            ("connections", config.connections, 1..=16),
            ("chunk_kib", config.chunk_kib, 4..=1024),
            ("whole_kib", config.whole_kib.unwrap_or_default(), 0..=1 << 20),
        ] {
            if !range.contains(&value) {
                let (first, last) = range.into_inner();
                return Err(Error::config(format!("comm.{key} must be from {first} to {last}, not {value}"))
                    .with("key", format!("comm.{key}")));
            }
        }
        Ok(Self { config, services: setup.services.clone() })
    }
}

impl CommBackend for Grpc {
    type Communicator = Ranks;

    fn capabilities(&self) -> Result<Capabilities> {
        Ok(Capabilities {
            dtypes: FOLDED.to_vec(),
            ops: OPS.to_vec(),
            max_world_size: MAX_WORLD_SIZE,
            deterministic: true,
            data_path: match SharedMemory::is_possible(self.config.shared_memory) {
                Ok(()) => "through shared memory where all ranks run on one host, else over TCP".to_owned(),
                Err(why) => format!("over TCP: this rank {why}"),
            },
        })
    }

    /// # Errors
    /// More ranks than can be; an address that may not or cannot be used; ranks that do not come within
    /// `connect_timeout_s`, or that do not belong to the job.
    fn open(&self, bootstrap: &Bootstrap) -> Result<Ranks> {
        let world_size = bootstrap.world_size;
        if world_size == 0 || world_size > MAX_WORLD_SIZE {
            return Err(Error::config(format!(
                "the backend `grpc` connects 1 to {MAX_WORLD_SIZE} ranks, not {world_size}"
            ))
            .with("key", "comm.world_size"));
        }
        let token = match world_size {
            1 if self.config.status_port.is_none() => Token::unshared()?,
            _ => Token::load(self.config.token_file.as_deref(), bootstrap)?,
        };
        let tls = match world_size {
            1 if self.config.status_port.is_none() => None,
            _ => self.config.tls.as_ref().map(Tls::load).transpose()?,
        };
        let job = Job::new(bootstrap, self.config.clone(), self.services.clone(), token, tls);
        let (address, port) = match world_size {
            1 => ("", 0),
            _ => (bootstrap.value("address")?, port(bootstrap.value("port")?)?),
        };
        open::open(job, address, port)
    }
}

fn port(text: &str) -> Result<u16> {
    text.parse().map_err(|_| Error::config(format!("comm.port must be a port, not {text:?}")).with("key", "comm.port"))
}

mdt_plugin_api::plugin! {
    comm "grpc" => Grpc: reduce_scatter, point_to_point, regions;
    observer "job_status" => JobStatusObserver;
}
