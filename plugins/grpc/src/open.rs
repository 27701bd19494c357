//! Opening a communicator: from an address to a stream with every rank.

use std::sync::Arc;
use std::time::Duration;

use mdt_plugin_api::{Error, ErrorCode, LogLevel, Result};
use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::address::{self, Meeting};
use crate::communicator::Ranks;
use crate::engine::Engine;
use crate::fault::named;
use crate::job::Job;
use crate::mesh::{self, Arrivals, ExchangeService, Mesh};
use crate::rendezvous::coordinator::{Coordinator, RendezvousService};
use crate::rendezvous::join::join;
use crate::server::Server;
use crate::shared_memory::SharedMemory;
use crate::status::StatusServer;
use crate::token::random;
use crate::wire::Cause;

/// Threads beside those that move and fold data, one for each data connection of collectives.
const THREADS: usize = 1;

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
        .worker_threads(THREADS + job.config.connections as usize)
        .thread_name("mdt-grpc")
        .enable_all()
        .build()
        .map_err(|error| Error::other("no threads for collectives can be started").caused_by(error))?;
    let job = Arc::new(job);
    let status = StatusServer::start(&job)?;
    let engine = runtime.block_on(async {
        tokio::select! {
            engine = connect(&job, address, port) => engine,
            error = stop_when_cancelled(&job) => Err(error),
        }
    });
    match engine {
        Ok((engine, shared_memory)) => Ok(Ranks::new(runtime, job, engine, shared_memory, status)),
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
    job.board.came(job.rank, &job.host, "", &job.device);
    if job.world_size == 1 {
        job.board.connected();
        return Ok((Engine::new(job, 0, Mesh { links: Vec::new(), lanes: Vec::new() }, None), None));
    }
    let meeting = address::resolve(job, address, port).await?;
    meeting.require_private(job)?;
    let mut engine = meet(job, &meeting, port).await?;
    let shared_memory = SharedMemory::connect(job, &mut engine).await?;
    if shared_memory.is_some() {
        job.peers().for_each(|rank| job.board.reached_by(rank, "memory"));
    }
    job.board.connected();
    job.services.log(LogLevel::Debug, &format!("rank {} of {} is connected with all others", job.rank, job.world_size));
    Ok((engine, shared_memory))
}

/// Meets the other ranks at rank 0, then connects with all of them.
async fn meet(job: &Arc<Job>, meeting: &Meeting, port: u16) -> Result<Engine> {
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
        let listening = address::of_this_rank(job, meeting, port).await?;
        let server = Server::start(job, &listening, known, exchange, Some(rendezvous), arrived).await?;
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
                let listening = address::of_this_rank(job, meeting, port).await?;
                Some(Server::start(job, &listening, known, exchange, None, arrived).await?)
            }
            false => None,
        };
        let reached_at = server.as_ref().map_or_else(String::new, |server| server.told.clone());
        let joined = tokio::select! {
            joined = join(job, &meeting.places, reached_at, limit) => joined.map_err(error)?,
            cause = job.fault.raised() => return Err(error(cause)),
        };
        (joined.roster, Some((joined.channel, joined.place)), server)
    };
    session.send_replace(Some(roster.session));
    let deadline = Instant::now() + MESH;
    let mesh = tokio::select! {
        biased;
        cause = job.fault.raised() => Err(cause),
        mesh = mesh::connect(job, &roster, met, arrivals, deadline) => mesh,
    };
    let mesh = mesh.map_err(|cause| error(job.fault.raise(cause)))?;
    server.iter().for_each(Server::stop_listening);
    Ok(Engine::new(job, roster.session, mesh, server))
}
