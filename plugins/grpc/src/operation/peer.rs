//! How far an operation is with one peer.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// How far the exchange with one peer is.
pub(super) struct Peer {
    pub(super) rank: u32,
    /// What it has not been sent yet in this round; none when it has been sent everything.
    pub(super) to_send: Option<Range<usize>>,
    /// What it has not been sent yet of what this rank folds.
    pub(super) results_to_send: Option<Range<usize>>,
    /// Payload of the current chunk that was not sent yet, and whether there is such a chunk.
    pub(super) sending: Range<usize>,
    pub(super) is_sending: bool,
    /// Whether it was told what this rank has called.
    pub(super) was_greeted: bool,
    /// Whether it has said what it has called.
    pub(super) has_joined: bool,
    pub(super) contribution: Arrival,
    pub(super) result: Arrival,
    /// The chunk that is coming.
    pub(super) arriving: Option<Arriving>,
    /// What has come of it, where it is folded.
    pub(super) filling: Vec<u8>,
    /// Chunks that are not folded yet.
    pub(super) ready: VecDeque<Vec<u8>>,
}

/// How much of a phase has come from a peer.
#[derive(Clone, PartialEq)]
pub(super) enum Arrival {
    /// This is missing; an empty chunk where it is empty.
    Rest(Range<usize>),
    Whole,
}

/// A chunk that is coming.
#[derive(Clone)]
pub(super) struct Arriving {
    /// What is missing of it.
    pub(super) range: Range<usize>,
    pub(super) begin: usize,
    pub(super) is_folded: bool,
    pub(super) is_gathered: bool,
    /// Of what has come, and of the whole chunk.
    pub(super) checksum: u32,
    pub(super) expected: u32,
}

impl Arrival {
    /// A phase that has this range; none where nothing is to come.
    pub(super) fn of(range: Option<Range<usize>>) -> Self {
        range.map_or(Self::Whole, Self::Rest)
    }
}

impl Peer {
    pub(super) fn new(rank: u32) -> Self {
        Self {
            rank,
            to_send: None,
            results_to_send: None,
            sending: 0..0,
            is_sending: false,
            was_greeted: false,
            has_joined: false,
            contribution: Arrival::Whole,
            result: Arrival::Whole,
            arriving: None,
            filling: Vec::new(),
            ready: VecDeque::new(),
        }
    }

    /// Whether nothing is left to send to it or to come from it in this round.
    pub(super) fn is_done(&self) -> bool {
        !self.is_sending && self.to_send.is_none() && self.results_to_send.is_none() && !self.expects_more()
    }

    pub(super) fn expects_more(&self) -> bool {
        self.arriving.is_some() || self.contribution != Arrival::Whole || self.result != Arrival::Whole
    }

    /// Whether it can be sent something now, where this rank has folded everything before this offset.
    pub(super) fn has_outgoing(&self, folded: usize) -> bool {
        self.is_sending || self.to_send.is_some() || self.has_results(folded)
    }

    /// Whether it can be sent something that this rank has folded.
    pub(super) fn has_results(&self, folded: usize) -> bool {
        self.results_to_send.as_ref().is_some_and(|rest| rest.start < folded || rest.is_empty())
    }

    /// Whether it has not been sent some of this range as it was before folding.
    pub(super) fn still_sends(&self, range: &Range<usize>) -> bool {
        let overlaps = |other: &Range<usize>| other.start < range.end && range.start < other.end;
        overlaps(&self.sending) || self.to_send.as_ref().is_some_and(overlaps)
    }
}

/// How far an operation is with each peer, for whoever looks for the one that holds it up.
pub(crate) struct Standings(Vec<(u32, AtomicU8)>);

/// The bits of a standing.
const ABSENT: u8 = 1;
const PARTIAL: u8 = 2;
const AWAITED: u8 = 4;

impl Standings {
    pub(super) fn new(peers: &[u32]) -> Self {
        Self(peers.iter().map(|&rank| (rank, AtomicU8::new(0))).collect())
    }

    pub(super) fn note(&self, index: usize, peer: &Peer, is_awaited: bool) {
        let bit = |is: bool, bit| if is { bit } else { 0 };
        let is_partial = peer.contribution != Arrival::Whole;
        let standing = bit(!peer.has_joined, ABSENT) | bit(is_partial, PARTIAL) | bit(is_awaited, AWAITED);
        self.0[index].1.store(standing, Relaxed);
    }

    /// The ranks without which the collective cannot go on, and whether they have not joined it. As long as ranks have not
    /// joined, the others may wait for those, so only they are meant; then those whose data is not complete; then those that
    /// do not go on.
    pub(crate) fn awaited(all: &[std::sync::Arc<Self>]) -> (Vec<u32>, bool) {
        let entries = || all.iter().flat_map(|standings| &standings.0).map(|(rank, bits)| (*rank, bits.load(Relaxed)));
        let with = |bits: u8| {
            let mut ranks: Vec<u32> =
                entries().filter(|(_, standing)| standing & bits == bits).map(|(rank, _)| rank).collect();
            ranks.sort_unstable();
            ranks.dedup();
            ranks
        };
        let absent = with(AWAITED | ABSENT);
        match absent.is_empty() {
            false => (absent, true),
            true => match with(AWAITED | PARTIAL) {
                partial if !partial.is_empty() => (partial, false),
                _ => (with(AWAITED), false),
            },
        }
    }
}
