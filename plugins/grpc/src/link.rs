//! The stream between this rank and another: what goes out, what comes in, and how it ends.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::PollSender;
use tonic::{Status, Streaming};

use crate::job::Job;
use crate::wire::envelope::Body;
use crate::wire::{Cause, Chunk, Envelope, Goodbye, Hello};

/// Chunks on their way in each direction, beside those in the windows of HTTP/2.
const UNDER_WAY: usize = 4;

/// This rank's end of the stream to another.
pub(crate) struct Link {
    pub(crate) rank: u32,
    pub(crate) outgoing: PollSender<Chunk>,
    /// Ends when the other rank has left or is lost.
    pub(crate) incoming: mpsc::Receiver<Chunk>,
    /// Ends when the other rank has ended its side.
    pub(crate) reader: JoinHandle<()>,
}

/// The side of a stream that this rank speaks on, not yet connected to a peer.
pub(crate) struct Speaker {
    hello: oneshot::Sender<Hello>,
    chunks: mpsc::Sender<Chunk>,
    end: oneshot::Sender<()>,
}

impl Speaker {
    /// Everything that will be said, and who can say it.
    pub(crate) fn new(job: &Job) -> (Self, Outgoing) {
        let (hello, introduced) = oneshot::channel();
        let (chunks, said) = mpsc::channel(UNDER_WAY);
        let (end, ended) = oneshot::channel();
        let fault = WatchStream::new(job.fault.watch());
        (Self { hello, chunks, end }, Outgoing { hello: Some(introduced), fault, chunks: said, ended, over: false })
    }

    /// Says hello, which is the first thing that is said.
    pub(crate) fn introduce(self, hello: Hello) -> Introduced {
        let _ = self.hello.send(hello); // the stream may have ended
        Introduced { chunks: self.chunks, end: self.end }
    }
}

/// A side that has said hello.
pub(crate) struct Introduced {
    chunks: mpsc::Sender<Chunk>,
    end: oneshot::Sender<()>,
}

impl Introduced {
    /// A link to `rank`, whose hello has been read from `stream`. `connection` is kept as long as the stream.
    pub(crate) fn link<C: Send + 'static>(
        self,
        job: &Arc<Job>,
        rank: u32,
        stream: Streaming<Envelope>,
        connection: C,
    ) -> Link {
        let (chunks, incoming) = mpsc::channel(UNDER_WAY);
        let reader = Reader { job: Arc::clone(job), rank, stream, chunks, end: self.end };
        let reader = tokio::spawn(async move {
            reader.read().await;
            drop(connection);
        });
        Link { rank, outgoing: PollSender::new(self.chunks), incoming, reader }
    }
}

/// What this rank says to a peer: a hello, chunks, and last an abort when something went wrong, a goodbye when the
/// communicator is closed, or nothing more when the peer has ended its side.
pub(crate) struct Outgoing {
    /// None once it has been said.
    hello: Option<oneshot::Receiver<Hello>>,
    fault: WatchStream<Option<Cause>>,
    chunks: mpsc::Receiver<Chunk>,
    ended: oneshot::Receiver<()>,
    over: bool,
}

impl Outgoing {
    fn last(&mut self, body: Body) -> Poll<Option<Envelope>> {
        self.over = true;
        // Whoever still wants to send hears at once that nobody listens.
        self.chunks.close();
        Poll::Ready(Some(body.into()))
    }
}

impl Stream for Outgoing {
    type Item = Envelope;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Envelope>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        if let Some(hello) = &mut this.hello {
            let Poll::Ready(hello) = Pin::new(hello).poll(context) else { return Poll::Pending };
            this.hello = None;
            // Without a hello the attempt was given up.
            this.over = hello.is_err();
            return Poll::Ready(hello.ok().map(|hello| Body::Hello(hello).into()));
        }
        // An abort does not overtake what a collective that has ended here still has to send.
        let is_closed = match this.chunks.poll_recv(context) {
            Poll::Ready(Some(chunk)) => return Poll::Ready(Some(Body::Chunk(chunk).into())),
            Poll::Ready(None) => true,
            Poll::Pending => false,
        };
        while let Poll::Ready(Some(cause)) = Pin::new(&mut this.fault).poll_next(context) {
            if let Some(cause) = cause {
                return this.last(Body::Abort(cause));
            }
        }
        if is_closed {
            return this.last(Body::Goodbye(Goodbye {}));
        }
        if Pin::new(&mut this.ended).poll(context).is_ready() {
            this.over = true;
            this.chunks.close();
            return Poll::Ready(None);
        }
        Poll::Pending
    }
}

/// The same for a server, whose streams can fail.
pub(crate) struct Answers(pub(crate) Outgoing);

impl Stream for Answers {
    type Item = Result<Envelope, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.0).poll_next(context).map(|envelope| envelope.map(Ok))
    }
}

/// Reads what a peer says, to the end.
struct Reader {
    job: Arc<Job>,
    rank: u32,
    stream: Streaming<Envelope>,
    chunks: mpsc::Sender<Chunk>,
    end: oneshot::Sender<()>,
}

impl Reader {
    async fn read(mut self) {
        let farewell = loop {
            match self.stream.message().await.map(|envelope| envelope.and_then(|envelope| envelope.body)) {
                Ok(Some(Body::Chunk(chunk))) => {
                    tokio::select! {
                        biased;
                        _ = self.chunks.send(chunk) => {}
                        _ = self.job.fault.raised() => {} // nobody takes chunks any more
                    }
                }
                Ok(Some(Body::Goodbye(_))) => break true,
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
        // The last word of the other side has been read: this side ends too, which tells the other that it was.
        let Self { mut stream, chunks, end, .. } = self;
        drop(chunks);
        drop(end);
        while farewell && matches!(stream.message().await, Ok(Some(_))) {}
    }

    /// Says that the peer is gone, unless it is this side that is leaving.
    fn lost(&self, detail: &str) -> bool {
        if !self.job.closing.load(Ordering::Acquire) {
            self.job.fault.raise(Cause::lost(self.rank, detail));
        }
        false
    }
}

/// What lies at the bottom of a failed stream.
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

/// How a side introduces itself.
pub(crate) fn hello(session: Session) -> Hello {
    Hello { session: session.session, generation: session.generation }
}

/// The roster's identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) session: u64,
    pub(crate) generation: u32,
}

/// The session, for whoever has to wait for it.
pub(crate) type SessionWatch = watch::Receiver<Option<Session>>;
