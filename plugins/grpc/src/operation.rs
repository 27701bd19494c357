//! One collective in progress: what still has to be sent to each peer and what still has to be received from it.
//!
//! Every rank contributes to every other in every collective, if only an empty chunk, so a collective ends when all
//! ranks have joined it, and every rank notices when another called something else. Sending never waits for
//! receiving, nor the other way round, so ranks cannot wait for each other in a circle.

mod gather;
mod reduce;

use std::collections::VecDeque;
use std::ops::Range;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use mdt_plugin_api::Buffer;

use self::gather::Gather;
use self::reduce::Reduce;
use crate::call::{Described, Kind, Request};
use crate::fault::{named, subject};
use crate::link::{Link, Session};
use crate::progress::Stalls;
use crate::wire::{CHUNK, Call, Cause, Chunk, Phase};

/// Chunks of a contribution that may wait for those of slower ranks.
const WAITING: usize = 4;

/// A collective in progress.
pub(crate) struct Operation {
    kind: Kind,
    call: Call,
    described: Described,
    work: Work,
    peers: Vec<Peer>,
}

/// What is done with the buffers.
enum Work {
    Reduce(Reduce),
    Gather(Gather),
}

/// How far the exchange with one peer is.
struct Peer {
    rank: u32,
    /// What it has not been sent yet; none when it has been sent everything.
    to_send: Option<Range<usize>>,
    /// Whether it was sent anything.
    begun: bool,
    /// Folded chunks that it has not been sent yet.
    results: VecDeque<(usize, Bytes)>,
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
    pub(crate) fn new(rank: u32, world_size: u32, request: Request, session: Session, sequence: u64) -> Self {
        let call = request.call(session, sequence);
        let described = Described::own(rank, &call, &request.buffers);
        let Request { buffers, kind } = request;
        let work = match kind {
            Kind::AllReduce(op) => Work::Reduce(Reduce::new(rank, world_size, buffers, op)),
            _ => Work::Gather(Gather::new(rank, world_size, buffers, kind)),
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
        Self { kind, call, described, work, peers }
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
                    if !listens || link.outgoing.send_item(self.next_chunk(index)).is_err() {
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
    pub(crate) fn finish(self) -> Vec<Buffer> {
        match self.work {
            Work::Reduce(reduce) => reduce.finish(),
            Work::Gather(gather) => gather.finish(),
        }
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
        format!("{} number {}", self.kind.name(), self.call.sequence)
    }

    fn left(&self, rank: u32) -> Cause {
        let message = format!("rank {rank} has left the job, and {} needs it", self.name());
        Cause::of(rank, message).help("all ranks must make the same number of updates: look at that rank's own output")
    }

    /// The next chunk for a peer that has one coming. Results go first: they are what others hold memory for.
    fn next_chunk(&mut self, index: usize) -> Chunk {
        let peer = &mut self.peers[index];
        let mut chunk = Chunk { call: Some(self.call), ..Chunk::default() };
        if let Some((offset, payload)) = peer.results.pop_front() {
            chunk.set_phase(Phase::Result);
            chunk.last = self.work.ends_result(offset + payload.len());
            (chunk.offset, chunk.payload) = (offset as u64, payload);
        } else if let Some(rest) = peer.to_send.take() {
            let end = rest.end.min(rest.start + CHUNK);
            chunk.set_phase(Phase::Contribution);
            chunk.last = end == rest.end;
            (chunk.offset, chunk.payload) = (rest.start as u64, self.work.read(rest.start..end));
            if !peer.begun {
                (chunk.element_types, chunk.lengths) = self.described.layout();
            }
            peer.begun = true;
            peer.to_send = (!chunk.last).then_some(end..rest.end);
        }
        chunk
    }

    /// Takes a chunk from a peer.
    fn take(&mut self, index: usize, mut chunk: Chunk) -> Result<(), Cause> {
        let theirs = chunk.call.take().unwrap_or_default();
        if theirs != self.call {
            return Err(self.differs(self.peers[index].rank, &theirs, &chunk));
        }
        let peer = &mut self.peers[index];
        let (range, arrival) = match chunk.phase() {
            Phase::Contribution => {
                let range = self.work.expected(peer.rank, &chunk).ok_or_else(|| misfit(peer.rank, "a layout"))?;
                (range, &mut peer.contribution)
            }
            Phase::Result => (self.work.result(peer.rank), &mut peer.result),
            Phase::Unspecified => return Err(misfit(peer.rank, "a phase")),
        };
        let Arrival::Until(until) = *arrival else { return Err(misfit(peer.rank, "a chunk")) };
        let start = until.unwrap_or(range.start);
        let end = start + chunk.payload.len();
        if chunk.offset != start as u64 || end != range.end.min(start + CHUNK) || chunk.last != (end == range.end) {
            return Err(misfit(peer.rank, "a range"));
        }
        *arrival = if chunk.last { Arrival::Whole } else { Arrival::Until(Some(end)) };
        match (&mut self.work, chunk.phase()) {
            (Work::Reduce(reduce), Phase::Contribution) => reduce.contributed(peer.rank, chunk.payload),
            (Work::Reduce(reduce), _) => reduce.write(start, &chunk.payload),
            (Work::Gather(gather), _) => gather.contributed(peer.rank, start, &chunk.payload),
        }
        Ok(())
    }

    /// Folds what all ranks have contributed to, and queues it for all peers.
    fn fold(&mut self) -> bool {
        let Work::Reduce(reduce) = &mut self.work else { return false };
        // Where every rank folds everything, what was not sent yet must stay as it is.
        if !reduce.has_results() && self.peers.iter().any(Peer::has_outgoing) {
            return false;
        }
        let mut progress = false;
        while let Some(range) = reduce.fold_next() {
            progress = true;
            if reduce.has_results() {
                let folded = reduce.read(range.clone());
                self.peers.iter_mut().for_each(|peer| peer.results.push_back((range.start, folded.clone())));
            }
        }
        progress
    }

    fn differs(&self, rank: u32, call: &Call, chunk: &Chunk) -> Cause {
        let same = |call: &Call| (call.session, call.generation, call.sequence);
        if same(call) != same(&self.call) {
            let message = format!("rank {rank} is at collective number {}, not {}", call.sequence, self.call.sequence);
            return Cause::of(rank, message);
        }
        self.described.differs(&Described::theirs(rank, call, chunk), call.sequence)
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

impl Work {
    /// What this rank sends to a peer.
    fn contribution(&self, peer: u32) -> Range<usize> {
        match self {
            Self::Reduce(reduce) => reduce.slice(peer),
            Self::Gather(gather) => gather.contribution(),
        }
    }

    /// What a peer sends to this rank; nothing where the layout that the chunk brings cannot be.
    fn expected(&mut self, peer: u32, chunk: &Chunk) -> Option<Range<usize>> {
        match self {
            Self::Reduce(reduce) => Some(reduce.own_slice()),
            Self::Gather(gather) => gather.expected(peer, chunk),
        }
    }

    fn has_results(&self) -> bool {
        matches!(self, Self::Reduce(reduce) if reduce.has_results())
    }

    /// What a peer folds.
    fn result(&self, peer: u32) -> Range<usize> {
        match self {
            Self::Reduce(reduce) => reduce.slice(peer),
            Self::Gather(_) => 0..0,
        }
    }

    /// Whether what this rank folds ends there.
    fn ends_result(&self, end: usize) -> bool {
        matches!(self, Self::Reduce(reduce) if reduce.own_slice().end == end)
    }

    /// Chunks from a peer that wait for other ranks.
    fn waiting(&self, peer: u32) -> usize {
        match self {
            Self::Reduce(reduce) => reduce.waiting(peer),
            Self::Gather(_) => 0,
        }
    }

    fn read(&self, range: Range<usize>) -> Bytes {
        match self {
            Self::Reduce(reduce) => reduce.read(range),
            Self::Gather(gather) => gather.read(range),
        }
    }
}

/// Ranks of one version never send such a thing.
fn misfit(rank: u32, what: &str) -> Cause {
    Cause::of(rank, format!("rank {rank} sent {what} that does not fit the collective"))
        .help("install the same version of the plugin on all ranks")
}
