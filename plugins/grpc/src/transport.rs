//! HTTP/2 as collectives need it: large frames and windows, no waiting for small packets, and pings that find a stopped
//! process. Connections of strangers are few and can fill only small windows.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use mdt_plugin_api::{Error, Result};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tonic::transport::{Channel, Endpoint, Server};

/// How long a connection may be silent before it is asked for a sign of life. With [`PING_TIMEOUT`] a process that is
/// stopped, or behind a broken network, is found within 4 s; TCP's own keep-alive cannot see the first and is slower.
const PING_INTERVAL: Duration = Duration::from_secs(1);
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// The largest DATA frame; the default of 16 KiB costs a third of the bandwidth.
const FRAME: u32 = 256 << 10;
/// What may be under way on a stream and on a connection: several chunks.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// How long one attempt to connect may take.
const ATTEMPT: Duration = Duration::from_secs(2);

/// Connections to one rank beyond those that its job needs.
const STRANGERS: usize = 16;

/// A server with the settings of this plugin.
pub(crate) fn server() -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_concurrent_streams(4)
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
}

/// Connects to one address.
///
/// # Errors
/// Nobody listens there, or nobody answers within two seconds.
pub(crate) async fn dial(address: SocketAddr) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(ATTEMPT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect()
        .await
}

/// Connections as they come, no more at a time than the job needs and a few.
pub(crate) fn accept(listener: TcpListener, world_size: u32) -> ReceiverStream<std::io::Result<Accepted>> {
    let places = Arc::new(Semaphore::new(world_size as usize + STRANGERS));
    let (accepted, connections) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            let connection = tokio::select! {
                connection = listener.accept() => connection,
                () = accepted.closed() => break,
            };
            // A failure concerns that connection only, or passes when others are closed.
            let Ok((stream, _)) = connection else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let _ = stream.set_nodelay(true);
            if accepted.send(Ok(Accepted { stream, _place: place })).await.is_err() {
                break;
            }
        }
    });
    ReceiverStream::new(connections)
}

/// A connection, and its place among those that are allowed.
pub(crate) struct Accepted {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
}

impl Connected for Accepted {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The addresses behind a name.
///
/// # Errors
/// The name is unknown.
pub(crate) async fn resolve(address: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host((address, port)).await?.collect())
}

/// Refuses addresses that other machines could reach, unless the user has accepted it.
///
/// # Errors
/// Says why, and what to do.
pub(crate) fn require_loopback(addresses: &[SocketAddr], insecure: bool) -> Result<()> {
    match addresses.iter().find(|address| !address.ip().is_loopback()) {
        Some(address) if !insecure => Err(Error::config(format!(
            "{} is not a loopback address, and the backend `grpc` neither encrypts nor authenticates yet",
            address.ip()
        ))
        .with("key", "comm.address")
        .help(
            "on a network that you trust altogether, accept it with comm.insecure = true; mutual TLS is to come. Ranks \
             on one machine meet at 127.0.0.1",
        )),
        _ => Ok(()),
    }
}

/// Listens at the first of these addresses that can be listened at; says which that was.
///
/// # Errors
/// None can: says why for the last one.
pub(crate) async fn listen(addresses: &[SocketAddr]) -> Result<(TcpListener, SocketAddr)> {
    let mut failure = None;
    for &address in addresses {
        let listener = TcpListener::bind(address).await;
        match listener.and_then(|listener| listener.local_addr().map(|address| (listener, address))) {
            Ok(listening) => return Ok(listening),
            Err(error) => failure = Some((address, error)),
        }
    }
    let Some((address, error)) = failure else {
        return Err(Error::config("comm.address names no address").with("key", "comm.address"));
    };
    let (port, ip) = (address.port(), address.ip());
    Err(match error.kind() {
        std::io::ErrorKind::AddrInUse => Error::config(format!("port {port} of {ip} is taken by another process"))
            .with("key", "comm.port")
            .help("another job may run here, or rank 0 was started twice: end that, or choose another comm.port"),
        std::io::ErrorKind::AddrNotAvailable => {
            Error::config(format!("{ip} is no address of this machine, where rank 0 listens"))
                .with("key", "comm.address")
                .help("comm.address must be an address of the machine of rank 0")
        }
        _ => Error::config(format!("rank 0 cannot listen on port {port} of {ip}"))
            .with("key", "comm.port")
            .caused_by(error),
    })
}
