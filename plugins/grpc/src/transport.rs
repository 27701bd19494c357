//! Connections with other ranks, and HTTP/2 as the control lane needs it: no waiting for small packets, and pings for signs
//! of life.

use std::future::ready;
use std::io;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint, Server};
use tower::service_fn;

use crate::connection::Connection;
use crate::handshake::{self, Refusal};
use crate::job::Job;
use crate::link::reason;
use crate::place::Place;
use crate::stream::Stream;
use crate::tls;
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

/// Connects to the rank that listens at a place. `session` is what both must know, 0 where that rank is rank 0; `lane` is
/// what the connection is for.
///
/// # Errors
/// No process listens there or answers in time, or it is not that rank of this job.
pub(crate) async fn connect(
    job: &Job,
    place: &Place,
    rank: u32,
    session: u64,
    lane: u32,
) -> Result<Connection, Failed> {
    let again = |error: io::Error| Failed::Again(error.to_string());
    let late = |_| Failed::Again("it does not answer".to_owned());
    let attempt = async {
        let mut stream = open(job, place, rank).await?;
        let handshake = handshake::dial(&mut stream, &job.token, [job.rank, rank], lane, session).await;
        handshake.map_err(|refusal| refused(job, place, rank, refusal)).map(|()| stream)
    };
    let stream = timeout(handshake::LIMIT, attempt).await.map_err(late)??;
    Connection::new(stream, rank, lane, job).map_err(again)
}

/// Opens a stream to a place, encrypted where it may leave this machine and the job has certificates.
async fn open(job: &Job, place: &Place, rank: u32) -> Result<Stream, Failed> {
    let again = |error: io::Error| Failed::Again(error.to_string());
    let late = |_| Failed::Again("it does not answer".to_owned());
    match place {
        Place::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path).await.map_err(again)?)),
        Place::Tcp(address, host) => {
            let stream = timeout(ATTEMPT, TcpStream::connect(address)).await.map_err(late)?.map_err(again)?;
            stream.set_nodelay(true).map_err(again)?;
            match &job.tls {
                None => Ok(Stream::Tcp(stream)),
                Some(tls) => match tls.connect(stream, host.clone()).await {
                    Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
                    Err(error) => Err(match tls::refusal(&error) {
                        Some(why) => Failed::Refused(untrusted(job, place, rank, &why)),
                        None => Failed::Again(format!("it does not speak TLS ({error}): all ranks need comm.tls")),
                    }),
                },
            }
        }
    }
}

/// What a failed handshake means to the rank that has dialled.
fn refused(job: &Job, place: &Place, rank: u32, refusal: Refusal) -> Failed {
    match refusal {
        // With TLS 1.3 the side that dialled is told here what the other thinks of its certificate.
        Refusal::Stranger(error) => match tls::refusal(&error) {
            Some(why) => Failed::Refused(untrusted(job, place, rank, &why)),
            None if tls::is_spoken(&error) => Failed::Refused(
                Cause::of(rank, format!("rank {rank} at {place} speaks TLS, and rank {} has no comm.tls", job.rank))
                    .help("give all ranks comm.tls, each with the certificate of its machine"),
            ),
            None => Failed::Again(error.to_string()),
        },
        Refusal::Token(_) => {
            let message = format!("rank {} and rank {rank} at {place} do not have the same job token", job.rank);
            Failed::Refused(Cause::of(rank, message).help("give all ranks the same MDT_JOB_TOKEN or comm.token_file"))
        }
        Refusal::Version(version) => {
            let message = format!(
                "rank {rank} at {place} speaks version {version} of the protocol, and rank {} version {PROTOCOL}",
                job.rank
            );
            Failed::Refused(Cause::of(rank, message).help("install the same version of the plugin `grpc` on all ranks"))
        }
    }
}

/// Certificates do not fit.
fn untrusted(job: &Job, place: &Place, rank: u32, why: &str) -> Cause {
    let message = format!("rank {} has no encrypted connection with rank {rank} at {place}: {why}", job.rank);
    Cause::of(rank, message).help(
        "make certificates for all hosts in one directory with `mdt-host certs new`, each for the names and addresses by \
         which the others reach the host",
    )
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
