//! Opening a communicator: from an address to a stream with every rank.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mdt_plugin_api::{Error, ErrorCode, LogLevel, Result};
use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::address;
use crate::communicator::Ranks;
use crate::engine::Engine;
use crate::fault::named;
use crate::job::Job;
use crate::mesh::{self, Arrivals, ExchangeService, Mesh};
use crate::rendezvous::coordinator::{Coordinator, RendezvousService};
use crate::rendezvous::join::join;
use crate::server::Server;
use crate::shared_memory::SharedMemory;
use crate::token::random;
use crate::wire::Cause;

/// Threads that move and fold data. Two keep a connection and a fold busy at once.
const THREADS: usize = 2;

/// How long ranks may take to connect with each other once all of them have come.
const MESH: Duration = Duration::from_secs(10);

/// How long the threads may take to end when opening has failed.
const SHUTDOWN: Duration = Duration::from_millis(200);

/// How often the host is asked whether the job is being cancelled, and how long the other ranks are told of it.
const CANCELLED: Duration = Duration::from_millis(100);
const TELLING: Duration = Duration::from_secs(2);

/// Connects with the other ranks of the job.
///
/// # Errors
/// An address that may not or cannot be used; ranks that do not come, or do not belong to the job.
pub(crate) fn open(job: Job, address: &str, port: u16) -> Result<Ranks> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("mdt-grpc")
        .enable_all()
        .build()
        .map_err(|error| Error::other("no threads for collectives can be started").caused_by(error))?;
    let job = Arc::new(job);
    let engine = runtime.block_on(async {
        tokio::select! {
            engine = connect(&job, address, port) => engine,
            error = stop_when_cancelled(&job) => Err(error),
        }
    });
    match engine {
        Ok((engine, shared_memory)) => Ok(Ranks::new(runtime, job, engine, shared_memory)),
        Err(error) => {
            runtime.shutdown_timeout(SHUTDOWN);
            Err(error)
        }
    }
}

/// Raises a fault when the host cancels the job, which ends waiting and tells the ranks that have come.
async fn stop_when_cancelled(job: &Job) -> Error {
    while !job.services.cancelled() {
        tokio::time::sleep(CANCELLED).await;
    }
    let awaited = named(&job.awaited());
    job.fault.raise(Cause::of(job.rank, format!("rank {} was stopped while it waited for {awaited}", job.rank)));
    tokio::time::sleep(TELLING).await;
    cancelled(job)
}

fn cancelled(job: &Job) -> Error {
    Error::new(ErrorCode::Cancelled, format!("cancelled while waiting for {}", named(&job.awaited())))
}

async fn connect(job: &Arc<Job>, address: &str, port: u16) -> Result<(Engine, Option<SharedMemory>)> {
    if job.world_size == 1 {
        return Ok((Engine::new(job, 0, Mesh { links: Vec::new(), lanes: Vec::new() }, None), None));
    }
    let addresses = address::resolve(address, port).await?;
    address::require_loopback(&addresses, job.config.insecure)?;
    let mut engine = meet(job, &addresses).await?;
    let shared_memory = SharedMemory::connect(job, &mut engine).await?;
    job.services.log(LogLevel::Debug, &format!("rank {} of {} is connected with all others", job.rank, job.world_size));
    Ok((engine, shared_memory))
}

/// Meets the other ranks at rank 0, then connects with all of them.
async fn meet(job: &Arc<Job>, addresses: &[SocketAddr]) -> Result<Engine> {
    let limit = Duration::from_secs_f64(job.config.connect_timeout_s);
    let (session, known) = watch::channel(None);
    let (exchange, links) = ExchangeService::new(Arc::clone(job), known.clone());
    let (arrived, data) = mpsc::unbounded_channel();
    let arrivals = Arrivals { links, data };
    let error = |cause: Cause| match job.services.cancelled() {
        true => cancelled(job),
        false => cause.error(),
    };

    let (roster, met, server) = if job.rank == 0 {
        let number = random().map_err(|error| Error::other("no session can be made").caused_by(error))?;
        let number = u64::from_le_bytes(number);
        session.send_replace(Some(number));
        let coordinator = Arc::new(Coordinator::new(Arc::clone(job), number));
        let rendezvous = RendezvousService(Arc::clone(&coordinator));
        let server = Server::start(job, address::listen(addresses).await?, known, exchange, Some(rendezvous), arrived);
        match coordinator.wait(limit).await {
            Ok(roster) => (roster, None, Some(server)),
            Err(cause) => {
                coordinator.tell().await;
                server.stop().await;
                return Err(error(cause));
            }
        }
    } else {
        // No rank dials the last one.
        let server = match job.rank + 1 < job.world_size {
            true => {
                let own = address::of_this_rank(job, addresses)?;
                Some(Server::start(job, address::listen(&[own]).await?, known, exchange, None, arrived))
            }
            false => None,
        };
        let reached_at = server.as_ref().map_or_else(String::new, |server| address::to_text(server.address));
        let joined = tokio::select! {
            joined = join(job, addresses, reached_at, limit) => joined.map_err(error)?,
            cause = job.fault.raised() => return Err(error(cause)),
        };
        (joined.roster, Some((joined.channel, joined.address)), server)
    };
    session.send_replace(Some(roster.session));
    let deadline = Instant::now() + MESH;
    let mesh = tokio::select! {
        biased;
        cause = job.fault.raised() => Err(cause),
        mesh = mesh::connect(job, &roster, met, arrivals, deadline) => mesh,
    };
    let mesh = mesh.map_err(|cause| error(job.fault.raise(cause)))?;
    Ok(Engine::new(job, roster.session, mesh, server))
}
