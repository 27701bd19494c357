//! Connections with other ranks, and HTTP/2 as the control lane needs it: no waiting for small packets, and pings for signs
//! of life.

use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint, Server};
use tower::service_fn;

use crate::connection::Connection;
use crate::handshake::{self, Refusal};
use crate::job::Job;
use crate::link::reason;
use crate::wire::{Cause, PROTOCOL};

/// How long a connection may be silent before the other side is asked for a sign of life: longer than the time between
/// two heartbeats, which can wait where the other rank takes no data.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// Never, because a ping and its answer wait behind data: `progress` finds out which connections are dead.
const PING_TIMEOUT: Duration = Duration::from_secs(86400);

/// How long one attempt to connect may take.
const ATTEMPT: Duration = Duration::from_secs(2);

/// A server with the settings of this plugin.
pub(crate) fn server() -> Server {
    Server::builder()
        .max_concurrent_streams(4)
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
}

/// Connects to the rank that listens at an address. `session` is what both must know, 0 where that rank is rank 0;
/// `lane` is what the connection is for.
///
/// # Errors
/// No process listens there or answers in time, or it is not that rank of this job.
pub(crate) async fn connect(
    job: &Job,
    address: SocketAddr,
    rank: u32,
    session: u64,
    lane: u32,
) -> Result<Connection, Failed> {
    let again = |error: io::Error| Failed::Again(error.to_string());
    let late = |_| Failed::Again("it does not answer".to_owned());
    let stream = timeout(ATTEMPT, TcpStream::connect(address)).await.map_err(late)?;
    let mut stream = stream.map_err(again)?;
    stream.set_nodelay(true).map_err(again)?;
    let handshake = handshake::dial(&mut stream, &job.token, [job.rank, rank], lane, session);
    match timeout(handshake::LIMIT, handshake).await.map_err(late)? {
        Ok(()) => {}
        Err(Refusal::Stranger(error)) => return Err(again(error)),
        Err(Refusal::Token(_)) => {
            let message = format!("rank {} and rank {rank} at {address} do not have the same job token", job.rank);
            let cause = Cause::of(rank, message).help("give all ranks the same MDT_JOB_TOKEN or comm.token_file");
            return Err(Failed::Refused(cause));
        }
        Err(Refusal::Version(version)) => {
            let message = format!(
                "rank {rank} at {address} speaks version {version} of the protocol, and rank {} version {PROTOCOL}",
                job.rank
            );
            let cause = Cause::of(rank, message).help("install the same version of the plugin `grpc` on all ranks");
            return Err(Failed::Refused(cause));
        }
    }
    Connection::new(stream, rank, lane, job).map_err(again)
}

/// An HTTP/2 client over a connection, as the control lane has it.
///
/// # Errors
/// The connection has ended.
pub(crate) async fn channel(connection: Connection) -> Result<Channel, Failed> {
    // The channel cannot connect again by itself: every connection begins with a handshake.
    let mut connection = Some(TokioIo::new(connection));
    let connector =
        service_fn(move |_: Uri| ready(connection.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))));
    Endpoint::from_static("http://rank")
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
        .map_err(|error| Failed::Again(reason(&error)))
}

/// Why another rank was not reached.
pub(crate) enum Failed {
    /// It may be reached later.
    Again(String),
    /// It does not belong to this job.
    Refused(Cause),
}
