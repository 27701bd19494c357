//! What a rank called: checked against what the others called before anything is done with what they sent.

use mdt_plugin_api::{Buffer, Error, ReduceOp, Result};
use sha2::{Digest, Sha256};

use crate::flat;
use crate::link::Session;
use crate::wire::{Call, Cause, Chunk, Collective, ElementType, MAX_BUFFERS, Reduction};

/// One call of a collective on this rank.
pub(crate) struct Request {
    pub(crate) buffers: Vec<Buffer>,
    pub(crate) kind: Kind,
}

/// Which collective, with what belongs to it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    AllReduce(ReduceOp),
    AllGather,
    Broadcast { root: u32 },
    Barrier,
}

impl Kind {
    /// Its name, as the trait has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AllReduce(_) => "all_reduce",
            Self::AllGather => "all_gather",
            Self::Broadcast { .. } => "broadcast",
            Self::Barrier => "barrier",
        }
    }

    /// Whether ranks may have different numbers of elements of this type.
    pub(crate) fn may_differ(self, element_type: ElementType) -> bool {
        match self {
            Self::AllGather => true,
            Self::Broadcast { .. } => element_type == ElementType::Bytes,
            Self::AllReduce(_) | Self::Barrier => false,
        }
    }
}

impl Request {
    /// # Errors
    /// What is wrong on this rank alone.
    pub(crate) fn check(&self, world_size: u32) -> Result<()> {
        if let Kind::AllReduce(_) = self.kind
            && self.buffers.iter().any(|buffer| matches!(buffer, Buffer::Bytes(_)))
        {
            return Err(Error::plugin("bytes cannot be reduced, only broadcast and gathered"));
        }
        if let Kind::Broadcast { root } = self.kind
            && root >= world_size
        {
            let last = world_size - 1;
            return Err(Error::plugin(format!(
                "the root of a broadcast among {world_size} ranks must be 0 to {last}, not {root}"
            )));
        }
        if self.buffers.len() > MAX_BUFFERS {
            let (name, count) = (self.kind.name(), self.buffers.len());
            return Err(Error::plugin(format!("{name} takes at most {MAX_BUFFERS} buffers at once, not {count}")));
        }
        Ok(())
    }

    /// The call, as it is sent with every chunk.
    pub(crate) fn call(&self, session: Session, sequence: u64) -> Call {
        let (collective, reduction, root) = match self.kind {
            Kind::AllReduce(ReduceOp::Sum) => (Collective::AllReduce, Reduction::Sum, 0),
            Kind::AllReduce(ReduceOp::Max) => (Collective::AllReduce, Reduction::Max, 0),
            Kind::AllReduce(ReduceOp::Min) => (Collective::AllReduce, Reduction::Min, 0),
            Kind::AllGather => (Collective::AllGather, Reduction::Unspecified, 0),
            Kind::Broadcast { root } => (Collective::Broadcast, Reduction::Unspecified, root),
            Kind::Barrier => (Collective::Barrier, Reduction::Unspecified, 0),
        };
        let (mut count, mut layout) = (0, Sha256::new());
        let mut all = None;
        for buffer in &self.buffers {
            let element_type = flat::element_type(buffer);
            let length = if self.kind.may_differ(element_type) { 0 } else { flat::length(buffer) as u64 };
            layout.update([element_type as u8]);
            layout.update(length.to_le_bytes());
            count += length;
            all = match all {
                None => Some(element_type),
                Some(same) if same == element_type => all,
                Some(_) => Some(ElementType::Mixed),
            };
        }
        let digest = layout.finalize();
        let mut layout_hash = [0; 8];
        layout_hash.copy_from_slice(&digest[..8]);
        Call {
            session: session.session,
            generation: session.generation,
            sequence,
            collective: collective.into(),
            reduction: reduction.into(),
            root,
            element_type: all.unwrap_or_default().into(),
            count,
            layout_hash: u64::from_le_bytes(layout_hash),
        }
    }
}

/// A rank's call in words, for the error when ranks differ.
pub(crate) struct Described {
    pub(crate) rank: u32,
    what: String,
    buffers: Vec<(ElementType, u64)>,
}

impl Described {
    /// The call of this rank.
    pub(crate) fn own(rank: u32, call: &Call, buffers: &[Buffer]) -> Self {
        let buffers = buffers.iter().map(|buffer| (flat::element_type(buffer), flat::length(buffer) as u64));
        Self { rank, what: what(call), buffers: buffers.collect() }
    }

    /// The call of the rank that this chunk is from, which is the first one it sent.
    pub(crate) fn theirs(rank: u32, call: &Call, chunk: &Chunk) -> Self {
        let types = chunk.element_types().collect::<Vec<_>>();
        Self { rank, what: what(call), buffers: types.into_iter().zip(chunk.lengths.iter().copied()).collect() }
    }

    /// The buffers, as the first chunk of a contribution has them.
    pub(crate) fn layout(&self) -> (Vec<i32>, Vec<u64>) {
        self.buffers.iter().map(|&(element_type, length)| (i32::from(element_type), length)).unzip()
    }

    /// The error with what each of the two called.
    pub(crate) fn differs(&self, other: &Self, sequence: u64) -> Cause {
        let (first, second) = if self.rank < other.rank { (self, other) } else { (other, self) };
        let message = match first.differing_buffer(second) {
            Some(index) => format!(
                "collective number {sequence} differs between ranks: in {}, buffer {index} is {} on rank {} and {} on \
                 rank {}",
                first.what,
                first.buffer(index),
                first.rank,
                second.buffer(index),
                second.rank
            ),
            None => format!(
                "collective number {sequence} differs between ranks: rank {} called {}, rank {} called {}",
                first.rank,
                first.in_words(),
                second.rank,
                second.in_words()
            ),
        };
        Cause::new(message).help("all ranks must call the same collectives in the same order, with buffers alike")
    }

    /// The first buffer that is not the same, where it takes a look at each to see it.
    fn differing_buffer(&self, other: &Self) -> Option<usize> {
        let many = self.buffers.len() > 1 && self.buffers.len() == other.buffers.len() && self.what == other.what;
        many.then(|| self.buffers.iter().zip(&other.buffers).position(|(a, b)| a != b)).flatten()
    }

    fn buffer(&self, index: usize) -> String {
        let (element_type, length) = self.buffers[index];
        format!("{} × {length}", name(element_type))
    }

    fn in_words(&self) -> String {
        match self.buffers.as_slice() {
            [] => self.what.clone(),
            [_] => format!("{} of {}", self.what, self.buffer(0)),
            [.., _] => {
                let elements = self.buffers.iter().fold(0u64, |sum, (_, length)| sum.saturating_add(*length));
                format!(
                    "{} of {} buffers with {elements} elements, the first {}",
                    self.what,
                    self.buffers.len(),
                    self.buffer(0)
                )
            }
        }
    }
}

fn what(call: &Call) -> String {
    match (call.collective(), call.reduction()) {
        (Collective::AllReduce, Reduction::Sum) => "all_reduce(sum)".into(),
        (Collective::AllReduce, Reduction::Max) => "all_reduce(max)".into(),
        (Collective::AllReduce, Reduction::Min) => "all_reduce(min)".into(),
        (Collective::AllGather, _) => "all_gather".into(),
        (Collective::Broadcast, _) => format!("broadcast from rank {}", call.root),
        (Collective::Barrier, _) => "barrier".into(),
        (Collective::AllReduce | Collective::Unspecified, _) => "a collective that is unknown here".into(),
    }
}

fn name(element_type: ElementType) -> &'static str {
    match element_type {
        ElementType::F32 => "float32",
        ElementType::F64 => "float64",
        ElementType::U64 => "uint64",
        ElementType::Bytes => "bytes",
        ElementType::Unspecified | ElementType::Mixed => "unknown",
    }
}
