//! A TCP connection with another rank of the job, after both have proved themselves.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::transport::server::Connected;
use tonic::{Request, Status};

/// A connection with a rank.
pub(crate) struct Connection {
    stream: TcpStream,
    rank: u32,
}

/// The rank at the other end, for the services that answer it.
#[derive(Clone, Copy)]
pub(crate) struct Proved(pub(crate) u32);

impl Proved {
    /// The rank that a request has come from.
    ///
    /// # Errors
    /// The connection had no handshake, which does not happen.
    pub(crate) fn rank_of<T>(request: &Request<T>) -> Result<u32, Status> {
        let proved = request.extensions().get::<Self>();
        proved.map(|proved| proved.0).ok_or_else(|| Status::unauthenticated("no handshake"))
    }
}

impl Connection {
    /// A connection whose other end has proved that it is this rank.
    pub(crate) fn new(stream: TcpStream, rank: u32) -> Self {
        Self { stream, rank }
    }
}

impl Connected for Connection {
    type ConnectInfo = Proved;

    fn connect_info(&self) -> Proved {
        Proved(self.rank)
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
