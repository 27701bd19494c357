//! A connection of a client that asks for the status. Until it has shown the job token it lives for seconds and says little.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tonic::transport::server::Connected;

use crate::stream::{Closer, Stream};

/// How long a client may take to show the token, and how many bytes it may send before.
const INTRODUCTION: Duration = Duration::from_secs(5);
const ENOUGH: usize = 64 << 10;

/// Whether a client has shown the token.
#[derive(Clone, Default)]
pub(super) struct Admission(Arc<AtomicBool>);

impl Admission {
    pub(super) fn grant(&self) {
        self.0.store(true, Relaxed);
    }

    pub(super) fn is_granted(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// A client's connection.
pub(super) struct Visit {
    stream: Stream,
    admission: Admission,
    limit: Pin<Box<Sleep>>,
    received: usize,
    /// Dropped with the connection: while there is a handle, the system keeps it open.
    _closer: Arc<Closer>,
}

/// Another handle to a client's connection.
pub(super) struct Visitor {
    closer: Weak<Closer>,
    admission: Admission,
}

impl Visit {
    /// A connection that has just begun.
    ///
    /// # Errors
    /// The system has no file descriptors left.
    pub(super) fn begin(stream: Stream) -> io::Result<(Self, Visitor)> {
        let (admission, closer) = (Admission::default(), Arc::new(stream.closer()?));
        let visitor = Visitor { closer: Arc::downgrade(&closer), admission: admission.clone() };
        let limit = Box::pin(tokio::time::sleep(INTRODUCTION));
        Ok((Self { stream, admission, limit, received: 0, _closer: closer }, visitor))
    }
}

impl Visitor {
    pub(super) fn is_open(&self) -> bool {
        self.closer.strong_count() > 0
    }

    pub(super) fn is_admitted(&self) -> bool {
        self.admission.is_granted()
    }

    pub(super) fn close(&self) {
        if let Some(closer) = self.closer.upgrade() {
            closer.close();
        }
    }
}

impl Connected for Visit {
    type ConnectInfo = Admission;

    fn connect_info(&self) -> Admission {
        self.admission.clone()
    }
}

impl AsyncRead for Visit {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.admission.is_granted() {
            let is_late = self.limit.as_mut().poll(context).is_ready();
            if is_late || self.received > ENOUGH {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.received = self.received.saturating_add(buffer.filled().len() - before);
        read
    }
}

impl AsyncWrite for Visit {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
