//! The server that answers other ranks: of the connections that others open to this rank, only those that have passed the
//! handshake reach HTTP/2.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mdt_plugin_api::LogLevel;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::MAX_WORLD_SIZE;
use crate::connection::{CONTROL, Connection};
use crate::handshake::{self, Refusal};
use crate::job::Job;
use crate::mesh::{ExchangeService, SessionWatch};
use crate::rendezvous::coordinator::RendezvousService;
use crate::transport;
use crate::wire::rendezvous_server::RendezvousServer;
use crate::wire::{MAX_JOIN, PROTOCOL};

/// Connections that have not passed the handshake yet. When one more comes, the oldest is closed: a rank passes within
/// milliseconds, so strangers cannot keep it out by staying.
const PLACES: usize = 64;

/// The server that answers other ranks. It runs until it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) fn start(
        job: &Arc<Job>,
        (listener, address): (TcpListener, SocketAddr),
        session: SessionWatch,
        exchange: ExchangeService,
        rendezvous: Option<RendezvousService>,
        data: mpsc::UnboundedSender<Connection>,
    ) -> Self {
        let (stop, stopped) = oneshot::channel();
        let rendezvous = rendezvous.map(|service| RendezvousServer::new(service).max_decoding_message_size(MAX_JOIN));
        let router = transport::server().add_service(exchange).add_optional_service(rendezvous);
        let connections = accept(listener, Arc::clone(job), session, data);
        let task = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            // An error of a connection reaches the stream that uses it.
            let _ = router.serve_with_incoming_shutdown(connections, stopped).await;
        });
        Self { address, stop, task }
    }

    /// Stops it when all requests are answered, or after a second.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        let _ = tokio::time::timeout(Duration::from_secs(1), self.task).await;
    }
}

/// Control connections from ranks of the job, as they come; those of data lanes go to `data`. `session` is what ranks other
/// than 0 must know.
fn accept(
    listener: TcpListener,
    job: Arc<Job>,
    session: SessionWatch,
    data: mpsc::UnboundedSender<Connection>,
) -> UnboundedReceiverStream<std::io::Result<Connection>> {
    let (ranks, connections) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut handshakes = JoinSet::new();
        let mut places: VecDeque<AbortHandle> = VecDeque::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = ranks.closed() => break,
            };
            // A failure concerns that connection only, or passes when others are closed.
            let Ok((stream, address)) = accepted else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            while handshakes.try_join_next().is_some() {}
            places.retain(|handshake| !handshake.is_finished());
            if places.len() == PLACES
                && let Some(oldest) = places.pop_front()
            {
                oldest.abort();
            }
            let (job, session, ranks, data) = (Arc::clone(&job), session.clone(), ranks.clone(), data.clone());
            places.push_back(handshakes.spawn(async move {
                if let Some(connection) = authenticate(stream, address, &job, session).await {
                    // The server may have ended.
                    let _ = match connection.lane {
                        CONTROL => ranks.send(Ok(connection)).is_ok(),
                        _ => data.send(connection).is_ok(),
                    };
                }
            }));
        }
    });
    UnboundedReceiverStream::new(connections)
}

/// Runs the handshake with a dialler; warns the user once of a rank with another token or another version.
async fn authenticate(
    mut stream: TcpStream,
    address: SocketAddr,
    job: &Job,
    mut session: SessionWatch,
) -> Option<Connection> {
    let _ = stream.set_nodelay(true);
    let session = async {
        // Ranks come to rank 0 before there is a session.
        if job.rank == 0 {
            0
        } else {
            session.wait_for(Option::is_some).await.ok().and_then(|s| *s).unwrap_or_default()
        }
    };
    let handshake = handshake::answer(&mut stream, &job.token, job.rank, session);
    let warning = match tokio::time::timeout(handshake::LIMIT, handshake).await.ok()? {
        Ok((rank, lane)) if rank < MAX_WORLD_SIZE => return Connection::new(stream, rank, lane, job).ok(),
        Ok(_) | Err(Refusal::Stranger(_)) => return None,
        Err(Refusal::Token(rank)) => format!(
            "a process at {address} that says it is rank {rank} was turned away: it does not have this job's token. All \
             ranks need the same MDT_JOB_TOKEN or comm.token_file"
        ),
        Err(Refusal::Version(version)) => format!(
            "a process at {address} was turned away: it speaks version {version} of the protocol, and rank {} version \
             {PROTOCOL}. All ranks need the same version of the plugin `grpc`",
            job.rank
        ),
    };
    // One warning is enough: a stranger could fill the output with more.
    if !job.warned.swap(true, Ordering::Relaxed) {
        job.services.log(LogLevel::Warn, &warning);
    }
    None
}
