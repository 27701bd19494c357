//! What a rank called: checked against what the others called before anything is done with what they sent.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use mdt_plugin_api::engine::FOLDED;
use mdt_plugin_api::{Buffer, Dtype, Error, ReduceOp, Result};

use crate::wire::{self, Call, Cause, Chunk, MAX_BUFFERS, Phase, Reduction};

/// How elements are combined, all of them.
pub(crate) const OPS: [ReduceOp; 4] = [ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min, ReduceOp::Mean];

/// One call of a collective on this rank.
pub(crate) struct Request {
    pub(crate) buffers: Vec<Buffer>,
    pub(crate) kind: Kind,
}

/// A call that has its turn.
pub(crate) struct Collective {
    pub(crate) kind: Kind,
    pub(crate) called: Called,
    pub(crate) buffers: Vec<Buffer>,
    /// Bytes that were sent and received for it, for whoever waits.
    pub(crate) moved: Arc<AtomicU64>,
}

impl Collective {
    /// What messages call it.
    pub(crate) fn name(&self) -> String {
        format!("{} number {}", self.kind.name(), self.called.call.sequence)
    }
}

/// Which collective, with what belongs to it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    AllReduce(ReduceOp),
    ReduceScatter(ReduceOp),
    AllGather,
    Broadcast { root: u32 },
    Barrier,
    Send { to: u32 },
    Receive { from: u32 },
}

impl Kind {
    /// Its name, as the trait has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AllReduce(_) => "all_reduce",
            Self::ReduceScatter(_) => "reduce_scatter",
            Self::AllGather => "all_gather",
            Self::Broadcast { .. } => "broadcast",
            Self::Barrier => "barrier",
            Self::Send { .. } => "send",
            Self::Receive { .. } => "receive",
        }
    }

    /// Whether ranks may have different numbers of elements.
    fn may_differ(self) -> bool {
        self == Self::AllGather
    }
}

impl Request {
    /// # Errors
    /// What is wrong on this rank alone.
    pub(crate) fn check(&self, rank: u32, world_size: u32) -> Result<()> {
        if let Kind::AllReduce(_) | Kind::ReduceScatter(_) = self.kind
            && let Some(buffer) = self.buffers.iter().find(|buffer| !FOLDED.contains(&buffer.dtype()))
        {
            let dtype = buffer.dtype();
            return Err(Error::plugin(format!("{dtype} cannot be reduced, only broadcast and gathered")));
        }
        if let Kind::AllReduce(op) | Kind::ReduceScatter(op) = self.kind
            && !OPS.contains(&op)
        {
            return Err(Error::plugin(format!("reduction {} is unknown here", op as u32)));
        }
        if let (Kind::ReduceScatter(_), [buffer]) = (self.kind, &self.buffers[..])
            && !buffer.len().is_multiple_of(world_size as usize)
        {
            let count = buffer.len();
            return Err(Error::plugin(format!(
                "{count} elements cannot be divided into equal parts for {world_size} ranks"
            )));
        }
        if let Kind::Broadcast { root } = self.kind
            && root >= world_size
        {
            let last = world_size - 1;
            return Err(Error::plugin(format!(
                "the root of a broadcast among {world_size} ranks must be 0 to {last}, not {root}"
            )));
        }
        if let Kind::Send { to: peer } | Kind::Receive { from: peer } = self.kind
            && (peer >= world_size || peer == rank)
        {
            let (name, last) = (self.kind.name(), world_size - 1);
            return Err(Error::plugin(format!(
                "rank {rank} cannot {name} with rank {peer} as the other side: choose another of the ranks 0 to {last}"
            )));
        }
        if self.buffers.len() > MAX_BUFFERS {
            let (name, count) = (self.kind.name(), self.buffers.len());
            return Err(Error::plugin(format!("{name} takes at most {MAX_BUFFERS} buffers at once, not {count}")));
        }
        Ok(())
    }

    /// The call when it has its turn.
    pub(crate) fn begin(self, rank: u32, session: u64, sequence: u64, moved: Arc<AtomicU64>) -> Collective {
        let called = Called::own(rank, self.call(session, sequence), &self.buffers);
        Collective { kind: self.kind, called, buffers: self.buffers, moved }
    }

    /// The call, as it is sent with every chunk.
    pub(crate) fn call(&self, session: u64, sequence: u64) -> Call {
        let (collective, reduction, root) = match self.kind {
            Kind::AllReduce(op) => (wire::Collective::AllReduce, reduction(op), 0),
            Kind::ReduceScatter(op) => (wire::Collective::ReduceScatter, reduction(op), 0),
            Kind::AllGather => (wire::Collective::AllGather, Reduction::Unspecified, 0),
            Kind::Broadcast { root } => (wire::Collective::Broadcast, Reduction::Unspecified, root),
            Kind::Barrier => (wire::Collective::Barrier, Reduction::Unspecified, 0),
            Kind::Send { .. } | Kind::Receive { .. } => (wire::Collective::Send, Reduction::Unspecified, 0),
        };
        Call { session, sequence, collective: collective.into(), reduction: reduction.into(), root }
    }
}

/// A reduction, as the wire names it.
fn reduction(op: ReduceOp) -> Reduction {
    match op {
        ReduceOp::Sum => Reduction::Sum,
        ReduceOp::Max => Reduction::Max,
        ReduceOp::Min => Reduction::Min,
        ReduceOp::Mean => Reduction::Mean,
        _ => Reduction::Unspecified, // refused when it was called
    }
}

/// A rank's call with its buffers: what all ranks must agree on, and the error when they do not.
pub(crate) struct Called {
    pub(crate) rank: u32,
    pub(crate) call: Call,
    /// The buffers, as the first chunk of a contribution has them.
    pub(crate) element_types: Vec<u32>,
    pub(crate) lengths: Vec<u64>,
}

impl Called {
    /// The call of this rank.
    pub(crate) fn own(rank: u32, call: Call, buffers: &[Buffer]) -> Self {
        let layout = |buffer: &Buffer| (buffer.dtype().0, buffer.len() as u64);
        let (element_types, lengths) = buffers.iter().map(layout).unzip();
        Self { rank, call, element_types, lengths }
    }

    /// The call of the rank that this chunk is from, which is the first one it sent.
    pub(crate) fn theirs(rank: u32, chunk: &Chunk) -> Self {
        let Chunk { call, element_types, lengths, .. } = chunk.clone();
        Self { rank, call: call.unwrap_or_default(), element_types, lengths }
    }

    /// The description of a chunk with this range.
    pub(crate) fn chunk(&self, phase: Phase, range: &Range<usize>, last: bool) -> Chunk {
        let (offset, length) = (range.start as u64, range.len() as u32);
        Chunk { call: Some(self.call), phase: phase.into(), offset, last, length, ..Chunk::default() }
    }

    /// Whether a contribution with these buffers fits this call.
    pub(crate) fn fits(&self, kind: Kind, chunk: &Chunk) -> bool {
        self.element_types == chunk.element_types
            && self.lengths.len() == chunk.lengths.len()
            && (self.lengths == chunk.lengths || kind.may_differ())
    }

    /// The error with what each of the two called.
    pub(crate) fn differs(&self, other: &Self) -> Cause {
        let (first, second) = if self.rank < other.rank { (self, other) } else { (other, self) };
        let difference = match first.differing_buffer(second) {
            Some(index) => format!(
                "in {}, buffer {index} is {} on rank {} and {} on rank {}",
                what(&first.call),
                first.buffer(index),
                first.rank,
                second.buffer(index),
                second.rank
            ),
            None => {
                let called = [first, second].map(|called| format!("rank {} called {}", called.rank, called.in_words()));
                called.join(", ")
            }
        };
        Cause::new(format!("collective number {} differs between ranks: {difference}", self.call.sequence))
            .help("all ranks must call the same collectives in the same order, with buffers alike")
    }

    /// The first buffer that is not the same, where it takes a look at each to see it.
    fn differing_buffer(&self, other: &Self) -> Option<usize> {
        let many = self.lengths.len() > 1 && self.lengths.len() == other.lengths.len() && self.call == other.call;
        let is_other = |&index: &usize| self.buffer(index) != other.buffer(index);
        many.then(|| (0..self.lengths.len()).find(is_other)).flatten()
    }

    fn buffer(&self, index: usize) -> String {
        let dtype = Dtype(self.element_types.get(index).copied().unwrap_or_default());
        format!("{dtype} × {}", self.lengths[index])
    }

    fn in_words(&self) -> String {
        let what = what(&self.call);
        match self.lengths.len() {
            0 => what,
            1 => format!("{what} of {}", self.buffer(0)),
            count => {
                let elements = self.lengths.iter().fold(0u64, |sum, length| sum.saturating_add(*length));
                format!("{what} of {count} buffers with {elements} elements, the first {}", self.buffer(0))
            }
        }
    }
}

fn what(call: &Call) -> String {
    let reduction = match call.reduction() {
        Reduction::Sum => "sum",
        Reduction::Max => "max",
        Reduction::Min => "min",
        Reduction::Mean => "mean",
        Reduction::Unspecified => "a reduction that is unknown here",
    };
    match call.collective() {
        wire::Collective::AllReduce => format!("all_reduce({reduction})"),
        wire::Collective::ReduceScatter => format!("reduce_scatter({reduction})"),
        wire::Collective::AllGather => "all_gather".into(),
        wire::Collective::Broadcast => format!("broadcast from rank {}", call.root),
        wire::Collective::Barrier => "barrier".into(),
        wire::Collective::Send => "send".into(),
        wire::Collective::Unspecified => "a collective that is unknown here".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_announces_is_checked_against_what_this_rank_has_called() {
        let fits = |kind, own: Buffer, dtype: Dtype, lengths: &[u64]| {
            let element_types = vec![dtype.0; lengths.len()];
            let chunk = Chunk { element_types, lengths: lengths.to_vec(), ..Chunk::default() };
            Called::own(0, Call::default(), &[own]).fits(kind, &chunk)
        };
        let broadcast = Kind::Broadcast { root: 1 };
        let floats = || Buffer::from(vec![0.0f32; 3]);
        assert!(fits(broadcast, floats(), Dtype::F32, &[3]));
        assert!(!fits(broadcast, floats(), Dtype::F32, &[1 << 29]));
        assert!(!fits(broadcast, floats(), Dtype::F64, &[3]));
        assert!(!fits(broadcast, floats(), Dtype::F32, &[3, 3]));
        assert!(!fits(Kind::AllReduce(ReduceOp::Sum), floats(), Dtype::F32, &[2]));
        assert!(fits(Kind::AllGather, floats(), Dtype::F32, &[5]));
        assert!(!fits(Kind::AllGather, floats(), Dtype::U64, &[5]));
    }
}
