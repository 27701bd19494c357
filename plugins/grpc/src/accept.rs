//! The connections that others open to this rank: only those that have passed the handshake are handed on.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mdt_plugin_api::LogLevel;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::connection::Connection;
use crate::handshake::{self, Refusal};
use crate::job::Job;
use crate::link::SessionWatch;
use crate::wire::PROTOCOL;

/// Connections that have not passed the handshake yet. When one more comes, the oldest is closed: a rank passes within
/// milliseconds, so strangers cannot keep it out by staying.
const PLACES: usize = 64;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Connections from ranks of the job, as they come. `session` is what ranks other than 0 must know.
pub(crate) fn accept(
    listener: TcpListener,
    job: Arc<Job>,
    session: SessionWatch,
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
            let (job, session, ranks) = (Arc::clone(&job), session.clone(), ranks.clone());
            places.push_back(handshakes.spawn(async move {
                if let Some(connection) = authenticate(stream, address, &job, session).await {
                    let _ = ranks.send(Ok(connection)); // the server has ended
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
            session.wait_for(Option::is_some).await.ok().and_then(|s| *s).unwrap_or_default().session
        }
    };
    let handshake = handshake::answer(&mut stream, &job.token, job.rank, session);
    let warning = match tokio::time::timeout(HANDSHAKE, handshake).await.ok()? {
        Ok(rank) => return Connection::new(stream, rank, job).ok(),
        Err(Refusal::Stranger(_)) => return None,
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
