//! A connection with another rank of the job, after both have proved themselves. It counts what moves over it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tonic::Status;
use tonic::codegen::http::Extensions;
use tonic::transport::server::Connected;

use crate::job::Job;
use crate::progress::Progress;
use crate::stream::Stream;

/// A connection with a rank.
pub(crate) struct Connection {
    pub(crate) rank: u32,
    pub(crate) lane: u32,
    stream: Stream,
    progress: Arc<Progress>,
    /// Dropped with the connection, which ends its watch.
    _open: oneshot::Sender<()>,
}

/// The lane of the control connection. Those of data connections are numbered from 1.
pub(crate) const CONTROL: u32 = 0;

/// The rank at the other end, for the services that answer it.
#[derive(Clone, Copy)]
pub(crate) struct Proved(pub(crate) u32);

impl Proved {
    /// The rank that a request has come from.
    ///
    /// # Errors
    /// The connection had no handshake, which does not happen.
    pub(crate) fn rank_of(extensions: &Extensions) -> Result<u32, Status> {
        let proved = extensions.get::<Self>();
        proved.map(|proved| proved.0).ok_or_else(|| Status::unauthenticated("no handshake"))
    }
}

impl Connection {
    /// A connection whose other end has proved that it is this rank. That of the control lane is watched for signs of life.
    ///
    /// # Errors
    /// The system has no file descriptors left.
    pub(crate) fn new(stream: Stream, rank: u32, lane: u32, job: &Job) -> io::Result<Self> {
        let (open, ended) = oneshot::channel();
        if lane == CONTROL {
            tokio::spawn(Arc::clone(&job.progress).watch(rank, stream.closer()?, ended));
            job.board.reached_by(rank, stream.kind());
        }
        Ok(Self { rank, lane, stream, progress: Arc::clone(&job.progress), _open: open })
    }

    fn counted(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = written {
            self.progress.traffic(self.rank).sent.fetch_add(bytes as u64, Relaxed);
        }
        written
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
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let bytes = buffer.filled().len() - before;
        self.progress.traffic(self.rank).received.fetch_add(bytes as u64, Relaxed);
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.counted(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.counted(written)
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
