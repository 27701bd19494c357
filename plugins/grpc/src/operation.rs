//! One collective in progress: what still has to be sent to each peer and what still has to be received from it.
//!
//! Every rank contributes to every other in every collective, if only an empty chunk, so a collective ends when all
//! ranks have joined it, and every rank notices when another called something else. Sending never waits for
//! receiving, nor the other way round, so ranks cannot wait for each other in a circle.

mod gather;
mod reduce;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mdt_plugin_api::{Buffer, Result};

use self::gather::Gather;
use self::reduce::Reduce;
use crate::call::{Called, Kind, Request};
use crate::fault::{named, subject};
use crate::job::Job;
use crate::link::Link;
use crate::messages::framed_chunk;
use crate::progress::Stalls;
use crate::wire::{CHUNK, Cause, Chunk, Phase};

/// Chunks of a contribution that may wait for those of slower ranks.
const WAITING: usize = 8;

/// A collective in progress.
pub(crate) struct Operation {
    kind: Kind,
    called: Called,
    work: Box<dyn Work>,
    peers: Vec<Peer>,
    /// Bytes that were sent and received, for whoever waits.
    moved: Arc<AtomicU64>,
}

/// What is done with the buffers. Ranges and offsets are bytes in all buffers of a rank.
trait Work: Send {
    /// What this rank sends to a peer; of an `all_reduce` that is what the peer folds.
    fn contribution(&self, peer: u32) -> Range<usize>;

    /// What a peer sends to this rank; its first chunk says how many elements each of its buffers has. `None` where no
    /// machine has so much memory.
    fn expected(&mut self, peer: u32, lengths: &[u64]) -> Option<Range<usize>>;

    /// Takes the next chunk of a peer's contribution, which lies from `start` on.
    fn contributed(&mut self, peer: u32, start: usize, payload: Bytes);

    /// Chunks from a peer that wait for those of others.
    fn waiting(&self, _peer: u32) -> usize {
        0
    }

    /// Whether ranks fold a part each and send it to the others.
    fn has_results(&self) -> bool {
        false
    }

    /// Whether this rank folds into memory that it also sends, which must stay as it is until it was sent.
    fn folds_what_it_sends(&self) -> bool {
        false
    }

    /// Folds the next chunk that has come from all ranks. Returns where it lies.
    fn fold_next(&mut self) -> Option<Range<usize>> {
        None
    }

    /// Takes what another rank has folded.
    fn write_result(&mut self, _start: usize, _payload: &[u8]) {}

    /// Appends a copy of a range.
    fn read(&self, range: Range<usize>, copy: &mut BytesMut);

    /// The buffers with the result.
    fn finish(self: Box<Self>) -> Result<Vec<Buffer>>;
}

/// How far the exchange with one peer is.
struct Peer {
    rank: u32,
    /// What it has not been sent yet; none when it has been sent everything.
    to_send: Option<Range<usize>>,
    /// Whether it was sent anything.
    begun: bool,
    /// Messages with folded chunks that it has not been sent yet.
    results: VecDeque<Bytes>,
    contribution: Arrival,
    result: Arrival,
}

/// How much of a phase has come from a peer.
#[derive(Clone, Copy, PartialEq)]
enum Arrival {
    /// Everything before this offset; nothing yet where there is no offset.
    Until(Option<usize>),
    Whole,
}

impl Operation {
    pub(crate) fn new(job: &Job, request: Request, session: u64, sequence: u64, moved: Arc<AtomicU64>) -> Self {
        let Job { rank, world_size, .. } = *job;
        let called = Called::own(rank, request.call(session, sequence), &request.buffers);
        let Request { buffers, kind } = request;
        let work: Box<dyn Work> = match kind {
            Kind::AllReduce(op) => Box::new(Reduce::all(rank, world_size, buffers, op)),
            Kind::ReduceScatter(op) => Box::new(Reduce::scatter(rank, world_size, buffers, op)),
            _ => Box::new(Gather::new(rank, world_size, buffers, kind)),
        };
        let peer = |peer| Peer {
            rank: peer,
            to_send: Some(work.contribution(peer)),
            begun: false,
            results: VecDeque::new(),
            contribution: Arrival::Until(None),
            result: if work.has_results() { Arrival::Until(None) } else { Arrival::Whole },
        };
        let peers = (0..world_size).filter(|&peer| peer != rank).map(peer).collect();
        Self { kind, called, work, peers, moved }
    }

    /// Sends and takes what it can; done when nothing is left to send or to come. `links` are in order of ranks.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>, links: &mut [Link]) -> Poll<Result<(), Cause>> {
        loop {
            let mut progress = false;
            for (index, link) in links.iter_mut().enumerate() {
                // A peer to which nothing can be sent has sent the reason, or its stream has ended: that is read below.
                let mut listens = true;
                while self.peers[index].has_outgoing() {
                    match link.outgoing.poll_reserve(context) {
                        Poll::Ready(reserved) => listens = reserved.is_ok(),
                        Poll::Pending => break,
                    }
                    if !listens || link.outgoing.send_item(self.next_message(index)).is_err() {
                        listens = false;
                        break;
                    }
                    progress = true;
                }
                while !listens || self.peers[index].expects_more() && self.work.waiting(link.rank) < WAITING {
                    match link.incoming.poll_recv(context) {
                        Poll::Ready(Some(chunk)) => self.take(index, chunk)?,
                        Poll::Ready(None) => return Poll::Ready(Err(self.left(link.rank))),
                        Poll::Pending => break,
                    }
                    progress = true;
                }
            }
            progress |= self.fold();
            if self.peers.iter().all(|peer| !peer.has_outgoing() && !peer.expects_more()) {
                return Poll::Ready(Ok(()));
            }
            if !progress {
                return Poll::Pending;
            }
        }
    }

    /// The buffers with the result.
    pub(crate) fn finish(self) -> Result<Vec<Buffer>> {
        self.work.finish()
    }

    /// The error when there has been no progress with a rank for `limit`. As long as ranks have not joined, the others may
    /// wait for those, so only they are blamed; then those whose data is not complete; then those that do not go on.
    pub(crate) fn overdue(&self, stalls: &Stalls, limit: Duration) -> Option<Cause> {
        let awaited: Vec<&Peer> = self.peers.iter().filter(|peer| self.waits_for(peer)).collect();
        let absent = awaited.iter().any(|peer| peer.is_absent());
        let partial = awaited.iter().any(|peer| peer.is_partial());
        let blamed = awaited.iter().filter(|peer| (!absent || peer.is_absent()) && (!partial || peer.is_partial()));
        let late: Vec<u32> = blamed.map(|peer| peer.rank).filter(|&rank| stalls.of(rank) >= limit).collect();
        let (name, seconds) = (self.name(), limit.as_secs_f64());
        let message = match absent {
            true => format!("{} not joined {name} within {seconds} s", subject(&late, ("has", "have"))),
            false => format!("{name} has made no progress with {} for {seconds} s", named(&late)),
        };
        let cause = Cause { rank: Some(*late.first()?), ..Cause::new(message) };
        Some(cause.help(
            "look at the output of that rank and at the network; `comm.timeout_s` is how long ranks wait for each other \
             without progress",
        ))
    }

    /// Whether the collective cannot go on without this peer. One that is far ahead of others is not waited for.
    fn waits_for(&self, peer: &Peer) -> bool {
        peer.has_outgoing() || peer.expects_more() && self.work.waiting(peer.rank) < WAITING
    }

    fn name(&self) -> String {
        format!("{} number {}", self.kind.name(), self.called.call.sequence)
    }

    fn left(&self, rank: u32) -> Cause {
        let message = format!("rank {rank} has left the job, and {} needs it", self.name());
        Cause::of(rank, message).help("all ranks must make the same number of updates: look at that rank's own output")
    }

    /// The next message for a peer that has one coming. The first one says what was called; then results go first: they
    /// are what others hold memory for.
    fn next_message(&mut self, index: usize) -> Bytes {
        let peer = &mut self.peers[index];
        if peer.begun
            && let Some(result) = peer.results.pop_front()
        {
            self.moved.fetch_add(result.len() as u64, Ordering::Relaxed);
            return result;
        }
        let rest = peer.to_send.take().unwrap_or_default();
        let range = rest.start..rest.end.min(rest.start + CHUNK);
        let mut chunk = self.called.chunk(Phase::Contribution, &range, &rest);
        if !peer.begun {
            (chunk.element_types, chunk.lengths) = (self.called.element_types.clone(), self.called.lengths.clone());
        }
        peer.begun = true;
        peer.to_send = (!chunk.last).then_some(range.end..rest.end);
        self.moved.fetch_add(range.len() as u64, Ordering::Relaxed);
        framed_chunk(&chunk, range.len(), |copy| self.work.read(range, copy))
    }

    /// Takes a chunk from a peer.
    fn take(&mut self, index: usize, chunk: Chunk) -> Result<(), Cause> {
        let is_first = self.peers[index].is_absent() && chunk.phase() == Phase::Contribution;
        if chunk.call != Some(self.called.call) || is_first && !self.called.fits(self.kind, &chunk) {
            return Err(self.differs(&Called::theirs(self.peers[index].rank, &chunk)));
        }
        let peer = &mut self.peers[index];
        let (range, arrival) = match chunk.phase() {
            Phase::Contribution => {
                let range =
                    self.work.expected(peer.rank, &chunk.lengths).ok_or_else(|| misfit(peer.rank, "a layout"))?;
                (range, &mut peer.contribution)
            }
            Phase::Result if !peer.is_absent() => (self.work.contribution(peer.rank), &mut peer.result),
            _ => return Err(misfit(peer.rank, "a phase")),
        };
        let Arrival::Until(until) = *arrival else { return Err(misfit(peer.rank, "a chunk")) };
        let start = until.unwrap_or(range.start);
        let end = start + chunk.payload.len();
        if chunk.offset != start as u64 || end != range.end.min(start + CHUNK) || chunk.last != (end == range.end) {
            return Err(misfit(peer.rank, "a range"));
        }
        self.moved.fetch_add(chunk.payload.len() as u64, Ordering::Relaxed);
        *arrival = if chunk.last { Arrival::Whole } else { Arrival::Until(Some(end)) };
        match chunk.phase() {
            Phase::Contribution => self.work.contributed(peer.rank, start, chunk.payload),
            _ => self.work.write_result(start, &chunk.payload),
        }
        Ok(())
    }

    /// Folds what all ranks have contributed to, and queues it for all peers.
    fn fold(&mut self) -> bool {
        let has_results = self.work.has_results();
        if self.work.folds_what_it_sends() && self.peers.iter().any(Peer::has_outgoing) {
            return false;
        }
        let mut progress = false;
        while let Some(range) = self.work.fold_next() {
            progress = true;
            if has_results {
                let whole = self.work.contribution(self.called.rank);
                let chunk = self.called.chunk(Phase::Result, &range, &whole);
                let folded = framed_chunk(&chunk, range.len(), |copy| self.work.read(range, copy));
                self.peers.iter_mut().for_each(|peer| peer.results.push_back(folded.clone()));
            }
        }
        progress
    }

    fn differs(&self, theirs: &Called) -> Cause {
        let (own, rank) = (&self.called.call, theirs.rank);
        if (theirs.call.session, theirs.call.sequence) != (own.session, own.sequence) {
            let message = format!("rank {rank} is at collective number {}, not {}", theirs.call.sequence, own.sequence);
            return Cause::of(rank, message);
        }
        self.called.differs(theirs)
    }
}

impl Peer {
    /// Whether it has not joined the collective.
    fn is_absent(&self) -> bool {
        self.contribution == Arrival::Until(None)
    }

    /// Whether some of its contribution is missing.
    fn is_partial(&self) -> bool {
        self.contribution != Arrival::Whole
    }

    fn has_outgoing(&self) -> bool {
        self.to_send.is_some() || !self.results.is_empty()
    }

    fn expects_more(&self) -> bool {
        self.contribution != Arrival::Whole || self.result != Arrival::Whole
    }
}

/// Ranks of one version never send such a thing.
fn misfit(rank: u32, what: &str) -> Cause {
    Cause::of(rank, format!("rank {rank} sent {what} that does not fit the collective"))
        .help("install the same version of the plugin on all ranks")
}
