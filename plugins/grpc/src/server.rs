//! The server that answers other ranks: of the connections that others open to this rank, only those that have passed the
//! handshake go further. When all ranks are connected it stops listening: a job that runs can be reached by nobody.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mdt_plugin_api::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::MAX_WORLD_SIZE;
use crate::address::Listening;
use crate::candidates::{Candidates, Vouched};
use crate::connection::{CONTROL, Connection};
use crate::handshake::{self, Refusal};
use crate::job::Job;
use crate::listener::{Listener, Origin};
use crate::mesh::{ExchangeService, SessionWatch};
use crate::rendezvous::coordinator::RendezvousService;
use crate::stream::Stream;
use crate::tls;
use crate::transport;
use crate::wire::rendezvous_server::RendezvousServer;
use crate::wire::{MAX_JOIN, PROTOCOL};

/// How long a process whose certificate is refused may take to read that, and how much it may send meanwhile.
const LINGER: Duration = Duration::from_millis(500);
const UNREAD: u64 = 64 << 10;

/// The server that answers other ranks. It runs until it is dropped.
pub(crate) struct Server {
    /// Where the other ranks reach it.
    pub(crate) told: String,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    listens: watch::Sender<bool>,
}

impl Server {
    /// Listens, and answers.
    ///
    /// # Errors
    /// Nothing of what may be listened at is free.
    pub(crate) async fn start(
        job: &Arc<Job>,
        listening: &Listening,
        session: SessionWatch,
        exchange: ExchangeService,
        rendezvous: Option<RendezvousService>,
        data: mpsc::UnboundedSender<Connection>,
    ) -> Result<Self> {
        let (listener, address): (Listener, Option<SocketAddr>) = Listener::open(listening).await?;
        let (stop, stopped) = oneshot::channel();
        let (listens, listened) = watch::channel(true);
        let rendezvous = rendezvous.map(|service| RendezvousServer::new(service).max_decoding_message_size(MAX_JOIN));
        let router = transport::server().add_service(exchange).add_optional_service(rendezvous);
        let connections = accept(listener, Arc::clone(job), session, data, listened);
        let task = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            // An error of a connection reaches the stream that uses it.
            let _ = router.serve_with_incoming_shutdown(connections, stopped).await;
        });
        Ok(Self { told: listening.told(address), stop, task, listens })
    }

    /// Lets nobody in any more.
    pub(crate) fn stop_listening(&self) {
        self.listens.send_replace(false);
    }

    /// Stops it when all requests are answered, or after a second.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        let _ = timeout(Duration::from_secs(1), self.task).await;
    }
}

/// Control connections from ranks of the job, as they come; those of data lanes go to `data`. `session` is what ranks other
/// than 0 must know.
fn accept(
    listener: Listener,
    job: Arc<Job>,
    session: SessionWatch,
    data: mpsc::UnboundedSender<Connection>,
    mut listened: watch::Receiver<bool>,
) -> UnboundedReceiverStream<io::Result<Connection>> {
    let (ranks, connections) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut candidates = Candidates::default();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = ranks.closed() => break,
                _ = listened.wait_for(|listens| !listens) => break,
            };
            // A failure concerns that connection only, or passes when others are closed.
            let Ok((stream, origin)) = accepted else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let vouched = Vouched::default();
            let (guest, session, ranks, data) = (Arc::clone(&job), session.clone(), ranks.clone(), data.clone());
            let has_ended_another = candidates.admit(origin.machine(), vouched.clone(), async move {
                let handshake = authenticate(stream, origin, &guest, session, &vouched);
                match timeout(handshake::LIMIT, handshake).await {
                    // The server may have ended.
                    Ok(Some(connection)) if connection.lane == CONTROL => drop(ranks.send(Ok(connection))),
                    Ok(Some(connection)) => drop(data.send(connection)),
                    Ok(None) => {}
                    Err(_) => guest.refuse(origin, "it did not prove in time that it is a rank"),
                }
            });
            if has_ended_another {
                job.refuse(origin, "there are too many that have not proved that they are ranks: one has to go");
            }
        }
        drop((listener, candidates));
        job.refusals.sum_up(&job.services, job.rank);
        // The stream of connections goes on without more of them: its end would be that of the server.
        ranks.closed().await;
    });
    UnboundedReceiverStream::new(connections)
}

impl Job {
    /// Notes a process that is turned away and may be anything.
    fn refuse(&self, origin: Origin, why: &str) {
        self.refusals.note(&self.services, &format!("a connection from {origin} was turned away: {why}"));
    }
}

/// Runs the handshakes with a dialler; tells the user of one that was turned away.
async fn authenticate(
    stream: Stream,
    origin: Origin,
    job: &Job,
    mut session: SessionWatch,
    vouched: &Vouched,
) -> Option<Connection> {
    let mut stream = match (&job.tls, stream) {
        (Some(tls), Stream::Tcp(stream)) => match tls.accept(stream).await {
            Ok(stream) => Stream::Tls(Box::new(stream)),
            Err((error, stream)) => {
                untrusted(job, origin, &error);
                linger(stream).await;
                return None;
            }
        },
        (_, stream) => stream,
    };
    if matches!(stream, Stream::Tls(_)) {
        vouched.set();
    }
    let session = async {
        // Ranks come to rank 0 before there is a session.
        if job.rank == 0 {
            0
        } else {
            session.wait_for(Option::is_some).await.ok().and_then(|s| *s).unwrap_or_default()
        }
    };
    let warning = match handshake::answer(&mut stream, &job.token, job.rank, session).await {
        Ok((rank, lane)) if rank < MAX_WORLD_SIZE => return Connection::new(stream, rank, lane, job).ok(),
        Ok((rank, _)) => {
            job.refuse(origin, &format!("there is no rank {rank}"));
            return None;
        }
        Err(Refusal::Stranger(error)) if tls::is_spoken(&error) => {
            format!("a process at {origin} was turned away: it speaks TLS, and rank {} has no comm.tls", job.rank)
        }
        Err(Refusal::Stranger(error)) => {
            job.refuse(origin, &error.to_string());
            return None;
        }
        Err(Refusal::Token(rank)) => format!(
            "a process at {origin} that says it is rank {rank} was turned away: it does not have this job's token. All \
             ranks need the same MDT_JOB_TOKEN or comm.token_file"
        ),
        Err(Refusal::Version(version)) => format!(
            "a process at {origin} was turned away: it speaks version {version} of the protocol, and rank {} version \
             {PROTOCOL}. All ranks need the same version of the plugin `grpc`",
            job.rank
        ),
    };
    job.refusals.warn(&job.services, &warning);
    None
}

/// Tells the user of a process with which there is no encrypted connection.
fn untrusted(job: &Job, origin: Origin, error: &io::Error) {
    match tls::refusal(error) {
        Some(why) => job.refusals.warn(&job.services, &format!("a process at {origin} was turned away: {why}")),
        None => job.refuse(origin, &error.to_string()),
    }
}

/// Ends a connection so that the other side can read what was sent to it last: bytes that nobody reads would take it away.
async fn linger(mut stream: TcpStream) {
    let _ = stream.shutdown().await; // it may have ended
    let mut unread = stream.take(UNREAD);
    let _ = timeout(LINGER, tokio::io::copy(&mut unread, &mut tokio::io::sink())).await;
}
