//! `all_gather`, `broadcast` and `barrier`: what comes is kept as it is.

use std::ops::Range;

use bytes::Bytes;
use mdt_plugin_api::Buffer;

use crate::call::Kind;
use crate::flat::{self, Flat};
use crate::wire::{Chunk, ElementType};

/// A collective under way that folds nothing.
pub(super) struct Gather {
    rank: u32,
    kind: Kind,
    own: Flat,
    /// What each rank has, where it gives anything.
    others: Vec<Option<Flat>>,
}

impl Gather {
    pub(super) fn new(rank: u32, world_size: u32, buffers: Vec<Buffer>, kind: Kind) -> Self {
        let others = (0..world_size).map(|_| None).collect();
        Self { rank, kind, own: Flat::new(buffers), others }
    }

    /// Whether a rank gives its buffers to the others.
    fn gives(&self, rank: u32) -> bool {
        match self.kind {
            Kind::AllGather => true,
            Kind::Broadcast { root } => rank == root,
            Kind::AllReduce(_) | Kind::Barrier => false,
        }
    }

    /// What this rank sends to each other.
    pub(super) fn contribution(&self) -> Range<usize> {
        if self.gives(self.rank) { 0..self.own.len() } else { 0..0 }
    }

    /// What a rank sends to this one. Its first chunk says how much that is; nothing where that cannot be.
    pub(super) fn expected(&mut self, rank: u32, chunk: &Chunk) -> Option<Range<usize>> {
        if !self.gives(rank) {
            return Some(0..0);
        }
        let theirs = &mut self.others[rank as usize];
        if theirs.is_none() {
            let types: Vec<ElementType> = chunk.element_types().collect();
            if types.len() != chunk.lengths.len() {
                return None;
            }
            // A broadcast goes into the memory that is there, where that has the root's size.
            let mut own = match self.kind {
                Kind::Broadcast { .. } => std::mem::take(&mut self.own).into_buffers().into_iter(),
                _ => Vec::new().into_iter(),
            };
            let place = |(element_type, &length): (ElementType, &u64)| match own.next() {
                Some(buffer) if flat::length(&buffer) as u64 == length => Some(buffer),
                _ => flat::zeros(element_type, length),
            };
            *theirs = Some(Flat::new(types.into_iter().zip(&chunk.lengths).map(place).collect::<Option<_>>()?));
        }
        theirs.as_ref().map(|theirs| 0..theirs.len())
    }

    /// Takes what lies from `start` on in a rank's buffers.
    pub(super) fn contributed(&mut self, rank: u32, start: usize, payload: &[u8]) {
        if let Some(theirs) = &mut self.others[rank as usize] {
            theirs.write(start, payload);
        }
    }

    pub(super) fn read(&self, range: Range<usize>) -> Bytes {
        self.own.read(range)
    }

    pub(super) fn finish(mut self) -> Vec<Buffer> {
        match self.kind {
            Kind::Broadcast { root } if root != self.rank => {
                self.others[root as usize].take().unwrap_or_default().into_buffers()
            }
            Kind::AllGather => {
                self.others[self.rank as usize] = Some(self.own);
                self.others.into_iter().flatten().flat_map(Flat::into_buffers).collect()
            }
            _ => self.own.into_buffers(),
        }
    }
}
