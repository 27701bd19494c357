//! The control stream between this rank and another: signs of life, the first fault, the goodbye.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Interval;
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;
use tonic::Status;

use crate::job::Job;
use crate::messages::{Received, framed};
use crate::progress::{HEARTBEAT, Progress, every};
use crate::wire::envelope::Body;
use crate::wire::{Cause, Goodbye, Heartbeat, Hello};

/// This rank's end of the stream to another.
pub(crate) struct Link {
    pub(crate) rank: u32,
    /// When it is dropped, this rank says goodbye.
    _queue: mpsc::Sender<Bytes>,
    /// Ends when the other rank has ended its side.
    pub(crate) reader: JoinHandle<()>,
}

/// The side of a stream that this rank speaks on, not yet connected to a peer.
pub(crate) struct Speaker {
    queue: mpsc::Sender<Bytes>,
    end: oneshot::Sender<()>,
}

impl Speaker {
    /// The two ends of the queue of messages to a peer.
    pub(crate) fn new(job: &Job) -> (Self, Outgoing) {
        let (queue, queued) = mpsc::channel(1);
        let (end, ended) = oneshot::channel();
        let outgoing = Outgoing {
            said_hello: false,
            fault: WatchStream::new(job.fault.watch()),
            queue: queued,
            heartbeats: every(HEARTBEAT),
            progress: Arc::clone(&job.progress),
            ended,
            over: false,
        };
        (Self { queue, end }, outgoing)
    }

    /// Sends the hello, which is the first message.
    pub(crate) fn say_hello(&self, session: u64) {
        let _ = self.queue.try_send(framed(Body::Hello(Hello { session }))); // the stream may have ended
    }

    /// A link to `rank`, whose hello has been read from `stream`. `connection` is kept as long as the stream.
    pub(crate) fn link<C: Send + 'static>(self, job: &Arc<Job>, rank: u32, stream: Received, connection: C) -> Link {
        let reader = Reader { job: Arc::clone(job), rank, stream, end: self.end };
        let reader = tokio::spawn(async move {
            reader.read().await;
            drop(connection);
        });
        Link { rank, _queue: self.queue, reader }
    }
}

/// What this rank sends to a peer: a hello, then heartbeats, and last an abort when something went wrong, a
/// goodbye when the communicator is closed, or nothing more when the peer has ended its side.
pub(crate) struct Outgoing {
    said_hello: bool,
    fault: WatchStream<Option<Cause>>,
    /// The hello.
    queue: mpsc::Receiver<Bytes>,
    heartbeats: Interval,
    progress: Arc<Progress>,
    ended: oneshot::Receiver<()>,
    over: bool,
}

impl Outgoing {
    fn last(&mut self, body: Option<Body>) -> Poll<Option<Bytes>> {
        self.over = true;
        // Sending fails at once from now on.
        self.queue.close();
        Poll::Ready(body.map(framed))
    }
}

impl Stream for Outgoing {
    type Item = Bytes;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        let is_closed = match this.queue.poll_recv(context) {
            Poll::Ready(Some(message)) => {
                this.said_hello = true;
                return Poll::Ready(Some(message));
            }
            // Without a hello the attempt was given up.
            Poll::Ready(None) if !this.said_hello => return this.last(None),
            Poll::Pending if !this.said_hello => return Poll::Pending,
            Poll::Ready(None) => true,
            Poll::Pending => false,
        };
        while let Poll::Ready(Some(cause)) = Pin::new(&mut this.fault).poll_next(context) {
            if let Some(cause) = cause {
                return this.last(Some(Body::Abort(cause)));
            }
        }
        if is_closed {
            return this.last(Some(Body::Goodbye(Goodbye {})));
        }
        if Pin::new(&mut this.ended).poll(context).is_ready() {
            return this.last(None);
        }
        if this.heartbeats.poll_tick(context).is_ready() {
            return Poll::Ready(Some(framed(Body::Heartbeat(Heartbeat { progress: this.progress.own() }))));
        }
        Poll::Pending
    }
}

/// Reads what a peer sends until its stream ends.
struct Reader {
    job: Arc<Job>,
    rank: u32,
    stream: Received,
    end: oneshot::Sender<()>,
}

impl Reader {
    async fn read(mut self) {
        let farewell = loop {
            match self.stream.message().await.map(|envelope| envelope.and_then(|envelope| envelope.body)) {
                Ok(Some(Body::Heartbeat(Heartbeat { progress }))) => self.job.progress.reported(self.rank, progress),
                Ok(Some(Body::Goodbye(_))) => {
                    self.job.departed(self.rank);
                    break true;
                }
                Ok(Some(Body::Abort(cause))) => {
                    self.job.fault.raise(cause);
                    break true;
                }
                Ok(Some(Body::Hello(_))) => {
                    self.job.fault.raise(Cause::of(self.rank, format!("rank {} said hello twice", self.rank)));
                }
                Ok(None) => break self.lost("no goodbye"),
                Err(status) => break self.lost(&reason(&status)),
            }
        };
        // The last message of the other side has been read: ending this side tells the other side so.
        let Self { mut stream, end, .. } = self;
        drop(end);
        while farewell && matches!(stream.message().await, Ok(Some(_))) {}
    }

    /// Reports that the peer is lost, unless this side is closing.
    fn lost(&self, detail: &str) -> bool {
        let detail = if self.job.progress.was_silent(self.rank) { "nothing was received for 4 s" } else { detail };
        if !self.job.closing.load(Ordering::Acquire) {
            self.job.fault.raise(Cause::lost(self.rank, detail));
        }
        false
    }
}

/// The innermost cause of a failed stream.
pub(crate) fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    match innermost.downcast_ref::<Status>() {
        Some(status) => status.message().to_owned(),
        None => innermost.to_string(),
    }
}
