//! One lane's part of a collective in progress: what still has to be sent to each peer and what still has to be received
//! from it.
//!
//! Every rank sends to every other in every collective, if only an empty chunk, so a collective ends when all ranks have
//! joined it, and every rank notices when another called something else. Sending never waits for receiving within a
//! round, nor the other way round, so ranks cannot wait for each other in a circle.

mod gathered;
mod peer;
mod rounds;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use mdt_plugin_api::engine::Leaf;
use mdt_plugin_api::{Buffer, Dtype, Result};

use self::gathered::Gathered;
pub(crate) use self::peer::Standings;
use self::peer::{Arrival, Arriving, Peer};
use self::rounds::{Place, Plan, Round};
use crate::call::{Called, Collective, Kind};
use crate::checksum;
use crate::data_stream::DataStream;
use crate::job::Job;
use crate::memory::{Stripe, padded_length};
use crate::wire::{Cause, Chunk, Phase};

/// Chunks of a contribution that may wait for those of slower ranks.
const WAITING: usize = 8;

/// One lane's part of a collective in progress.
pub(crate) struct Operation {
    kind: Kind,
    called: Arc<Called>,
    ranks: usize,
    stripe: Stripe,
    /// The current round, and those that follow.
    round: Round,
    rounds: VecDeque<Round>,
    /// The part of this rank's elements that the round folds and that is not folded yet.
    to_fold: Range<usize>,
    peers: Vec<Peer>,
    /// What `all_gather` has of the other ranks.
    gathered: Gathered,
    /// Checksums of what is sent to several peers, by where it begins.
    checksums: HashMap<usize, u32>,
    /// Payload of one chunk.
    chunk: usize,
    /// Memory of chunks that were folded.
    spare: Vec<Vec<u8>>,
    /// Bytes that were sent and received, for whoever waits.
    moved: Arc<AtomicU64>,
    standings: Arc<Standings>,
}

/// Why an operation has failed.
pub(crate) enum Failure {
    Cause(Cause),
    /// The data stream from this rank has ended.
    Ended(u32, io::Error),
}

impl From<Cause> for Failure {
    fn from(cause: Cause) -> Self {
        Self::Cause(cause)
    }
}

impl Operation {
    /// The parts of a collective between these ranks in at most so many lanes.
    pub(crate) fn divide(collective: Collective, job: &Job, peers: &[u32], lanes: usize) -> Vec<Self> {
        let (ranks, config) = (job.world_size, &job.config);
        let Collective { kind, called, buffers, moved } = collective;
        let dtypes: Vec<Dtype> = buffers.iter().map(Buffer::dtype).collect();
        let length = match (kind, &buffers[..]) {
            // Its parts need not begin at multiples of the alignment.
            (Kind::ReduceScatter(_), [buffer]) => buffer.bytes().len(),
            _ => padded_length(&buffers),
        };
        let plan = Plan {
            kind,
            rank: called.rank as usize,
            ranks: ranks as usize,
            dtypes: &dtypes,
            length,
            whole: config.whole_bytes(ranks),
        };
        let called = Arc::new(called);
        let stripes = plan.stripes(lanes);
        let rounds: Vec<Vec<Round>> = stripes.iter().map(|stripe| plan.rounds(stripe)).collect();
        let part = |(stripe, rounds): (Stripe, Vec<Round>)| {
            let mut operation = Self {
                kind,
                called: Arc::clone(&called),
                ranks: ranks as usize,
                stripe,
                round: Round::default(),
                rounds: rounds.into(),
                to_fold: 0..0,
                peers: peers.iter().map(|&rank| Peer::new(rank)).collect(),
                gathered: Gathered::new(dtypes.first().copied().unwrap_or(Dtype::U8), ranks as usize),
                checksums: HashMap::new(),
                chunk: config.chunk_bytes(),
                spare: Vec::new(),
                moved: Arc::clone(&moved),
                standings: Arc::new(Standings::new(peers)),
            };
            operation.next_round();
            operation
        };
        Stripe::divide(buffers, stripes).into_iter().zip(rounds).map(part).collect()
    }

    /// How far it is with each peer.
    pub(crate) fn standings(&self) -> Arc<Standings> {
        Arc::clone(&self.standings)
    }

    /// The memory that folding uses, which the next operation may use too.
    pub(crate) fn swap_spare(&mut self, spare: &mut Vec<Vec<u8>>) {
        std::mem::swap(&mut self.spare, spare);
    }

    /// The buffers with the result, of the parts of all lanes.
    pub(crate) fn finish(mut parts: Vec<Self>) -> Result<Vec<Buffer>> {
        let Some(last) = parts.pop() else { return Ok(Vec::new()) };
        drop(parts);
        let (kind, rank) = (last.kind, last.called.rank as usize);
        let own = last.stripe.into_buffers().unwrap_or_default();
        if kind == Kind::AllGather { last.gathered.finish(rank, own) } else { Ok(own) }
    }

    /// Sends and takes what it can; done when nothing is left to send or to come. `streams` are those of its peers.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>, streams: &mut [DataStream]) -> Poll<Result<(), Failure>> {
        loop {
            let mut progress = false;
            for (index, stream) in streams.iter_mut().enumerate() {
                // A chunk in each direction at a time, so that what is read and folded stays in the cache.
                let rank = self.peers[index].rank;
                progress |= self.send(context, index, stream).map_err(|error| Failure::Ended(rank, error))?;
                progress |= self.receive(context, index, stream)?;
            }
            progress |= self.fold();
            if self.to_fold.is_empty() && self.peers.iter().all(Peer::is_done) {
                if self.rounds.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                self.next_round();
                progress = true;
            }
            if !progress {
                self.stand();
                return Poll::Pending;
            }
        }
    }

    fn next_round(&mut self) {
        self.round = self.rounds.pop_front().unwrap_or_default();
        if let Some(sums) = self.round.divides.take() {
            self.stripe.divide_sums(sums, self.ranks as u32);
        }
        self.checksums.clear();
        self.to_fold = match &self.round.place {
            Place::Folded { range, .. } => range.clone(),
            _ => 0..0,
        };
        for peer in &mut self.peers {
            let (sends, expects) = (&self.round.sends[peer.rank as usize], &self.round.expects[peer.rank as usize]);
            // A peer gives back, reduced, what it is sent.
            let shares = self.round.shares;
            peer.to_send = sends.clone();
            peer.results_to_send = shares.then(|| self.to_fold.clone());
            peer.contribution = Arrival::of(expects.clone());
            peer.result = Arrival::of(sends.clone().filter(|_| shares));
        }
        self.stand();
    }

    /// Notes for others how far it is with each peer.
    fn stand(&self) {
        for (index, peer) in self.peers.iter().enumerate() {
            self.standings.note(index, peer, peer.has_outgoing(self.to_fold.start) || self.takes_from(index));
        }
    }

    /// Sends what the system takes of the current chunk to a peer, or of the next one.
    fn send(&mut self, context: &mut Context<'_>, index: usize, stream: &mut DataStream) -> io::Result<bool> {
        let mut progress = false;
        loop {
            while !stream.is_flushed() {
                let rest = self.peers[index].sending.clone();
                let Poll::Ready(sent) = stream.poll_send(context, self.stripe.pieces(rest))? else {
                    return Ok(progress);
                };
                self.peers[index].sending.start += sent;
                self.moved.fetch_add(sent as u64, Ordering::Relaxed);
                progress = true;
            }
            self.peers[index].is_sending = false;
            if progress {
                return Ok(true);
            }
            let Some(chunk) = self.next_chunk(index) else { return Ok(false) };
            self.peers[index].is_sending = true;
            stream.begin(chunk);
        }
    }

    /// The next chunk for a peer that has one coming. The first one says what was called; then results go first: they are
    /// what others wait for.
    fn next_chunk(&mut self, index: usize) -> Option<Chunk> {
        let (peer, folded) = (&mut self.peers[index], self.to_fold.start);
        let (phase, range, is_last) = if let Some(rest) = peer.results_to_send.clone()
            && peer.was_greeted
            && peer.has_results(folded)
        {
            let end = rest.end.min(rest.start + self.chunk).min(folded);
            peer.results_to_send = (end < rest.end).then_some(end..rest.end);
            (Phase::Result, rest.start..end, end == rest.end)
        } else {
            let rest = peer.to_send.take()?;
            let end = rest.end.min(rest.start + self.chunk);
            peer.to_send = (end < rest.end).then_some(end..rest.end);
            (Phase::Contribution, rest.start..end, end == rest.end)
        };
        let is_first = !std::mem::replace(&mut peer.was_greeted, true);
        peer.sending = range.clone();
        let mut chunk = self.called.chunk(phase, &range, is_last);
        if is_first {
            (chunk.element_types, chunk.lengths) = (self.called.element_types.clone(), self.called.lengths.clone());
        }
        chunk.payload_checksum = self.checksum(range);
        Some(chunk.sealed())
    }

    /// The checksum of what is sent of this range, once for all peers.
    fn checksum(&mut self, range: Range<usize>) -> u32 {
        if range.is_empty() {
            return 0;
        }
        let Self { checksums, stripe, peers, .. } = self;
        let compute = || stripe.pieces(range.clone()).fold(0, checksum::append);
        if peers.len() == 1 { compute() } else { *checksums.entry(range.start).or_insert_with(compute) }
    }

    /// Reads what has come of the current chunk from a peer, or of the next one.
    fn receive(&mut self, context: &mut Context<'_>, index: usize, stream: &mut DataStream) -> Result<bool, Failure> {
        let rank = self.peers[index].rank;
        let ended = |error| Failure::Ended(rank, error);
        let mut progress = false;
        if self.peers[index].arriving.is_none() {
            if !self.takes_from(index) {
                return Ok(false);
            }
            let Poll::Ready(chunk) = stream.poll_chunk(context).map_err(ended)? else { return Ok(false) };
            let chunk = chunk.ok_or_else(|| ended(io::ErrorKind::UnexpectedEof.into()))?;
            let arriving = self.announced(index, chunk)?;
            self.peers[index].arriving = Some(arriving);
            progress = true;
        }
        while let Some(Arriving { range, checksum, .. }) = self.peers[index].arriving.clone() {
            if range.is_empty() {
                self.arrived(index)?;
                return Ok(true);
            }
            let mut gap = [0; crate::memory::ALIGNMENT];
            let place = match self.place(index) {
                Ok(place) => place,
                Err(length) => &mut gap[..length],
            };
            let Poll::Ready(read) = stream.poll_payload(context, place).map_err(ended)? else { return Ok(progress) };
            let checksum = checksum::append(checksum, &place[..read]);
            if let Some(arriving) = &mut self.peers[index].arriving {
                (arriving.range.start, arriving.checksum) = (range.start + read, checksum);
            }
            self.moved.fetch_add(read as u64, Ordering::Relaxed);
            progress = true;
        }
        Ok(progress)
    }

    /// Whether the next chunk from a peer is expected and has a place.
    fn takes_from(&self, index: usize) -> bool {
        let peer = &self.peers[index];
        peer.arriving.is_some() || peer.expects_more() && peer.ready.len() < WAITING
    }

    /// Checks what a peer says of its next chunk.
    fn announced(&mut self, index: usize, chunk: Chunk) -> Result<Arriving, Cause> {
        let rank = self.peers[index].rank;
        if !chunk.is_intact() {
            return Err(Cause::damaged(rank, self.called.rank, chunk.length as usize));
        }
        let (phase, is_first) = (chunk.phase(), !self.peers[index].has_joined);
        if chunk.call != Some(self.called.call) || is_first && !self.called.fits(self.kind, &chunk) {
            return Err(self.differs(&Called::theirs(rank, &chunk)));
        }
        let is_gathered = self.round.place == Place::Gathered;
        if is_first && is_gathered {
            let bytes = self.gathered.begin(rank as usize, &chunk.lengths).ok_or_else(|| misfit(rank, "a layout"))?;
            self.peers[index].contribution = Arrival::of(Some(0..bytes));
        }
        let peer = &mut self.peers[index];
        peer.has_joined = true;
        let arrival = match phase {
            Phase::Contribution => &mut peer.contribution,
            Phase::Result => &mut peer.result,
            Phase::Unspecified => return Err(misfit(rank, "a phase")),
        };
        let Arrival::Rest(rest) = arrival else { return Err(misfit(rank, "a chunk")) };
        let range = rest.start..rest.start + chunk.length as usize;
        if chunk.offset != range.start as u64
            || range.end != rest.end.min(range.start + self.chunk)
            || chunk.last != (range.end == rest.end)
        {
            return Err(misfit(rank, "a range"));
        }
        *arrival = if chunk.last { Arrival::Whole } else { Arrival::Rest(range.end..rest.end) };
        let is_folded = phase == Phase::Contribution && matches!(self.round.place, Place::Folded { .. });
        if is_folded && !range.is_empty() {
            peer.filling = self.spare.pop().unwrap_or_default();
            peer.filling.resize(range.len(), 0);
        }
        let begin = range.start;
        Ok(Arriving { range, begin, is_folded, is_gathered, checksum: 0, expected: chunk.payload_checksum })
    }

    /// Where the rest of the current chunk from a peer goes; of a gap between buffers only its length.
    fn place(&mut self, index: usize) -> Result<&mut [u8], usize> {
        let peer = &mut self.peers[index];
        let Some(Arriving { range, begin, is_folded, is_gathered, .. }) = peer.arriving.clone() else { return Err(0) };
        if is_folded {
            Ok(&mut peer.filling[range.start - begin..])
        } else if is_gathered {
            Ok(self.gathered.place(peer.rank as usize, range))
        } else {
            self.stripe.piece_mut(range)
        }
    }

    /// Takes a chunk that has come whole.
    fn arrived(&mut self, index: usize) -> Result<(), Cause> {
        let peer = &mut self.peers[index];
        let Some(arriving) = peer.arriving.take() else { return Ok(()) };
        let bytes = arriving.range.end - arriving.begin;
        if arriving.checksum != arriving.expected {
            return Err(Cause::damaged(peer.rank, self.called.rank, bytes));
        }
        if arriving.is_folded && bytes > 0 {
            peer.ready.push_back(std::mem::take(&mut peer.filling));
        }
        Ok(())
    }

    /// Folds what all ranks have contributed to and what nobody has to be sent any more as it is.
    fn fold(&mut self) -> bool {
        let mut progress = false;
        let Place::Folded { order, op, .. } = &self.round.place else { return false };
        while !self.to_fold.is_empty() {
            let range = self.to_fold.start..self.to_fold.end.min(self.to_fold.start + self.chunk);
            if self.peers.iter().any(|peer| peer.still_sends(&range)) {
                break;
            }
            let own = self.called.rank as usize;
            let of = |rank: usize| self.peers.iter().find(|peer| peer.rank as usize == rank)?.ready.front();
            let leaves: Vec<Leaf<'_>> = order.iter().map(|&rank| of(rank).map(Vec::as_slice)).collect();
            if order.iter().zip(&leaves).any(|(&rank, leaf)| rank != own && leaf.is_none()) {
                break;
            }
            self.stripe.fold(range.clone(), &leaves, *op);
            self.spare.extend(self.peers.iter_mut().filter_map(|peer| peer.ready.pop_front()));
            self.to_fold.start = range.end;
            progress = true;
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

/// Ranks of one version never send such a thing.
fn misfit(rank: u32, what: &str) -> Cause {
    Cause::of(rank, format!("rank {rank} sent {what} that does not fit the collective"))
        .help("install the same version of the plugin on all ranks")
}
