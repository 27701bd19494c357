//! `all_gather`, `broadcast` and `barrier`: data is moved and not reduced.

use std::ops::Range;

use bytes::Bytes;
use mdt_plugin_api::Buffer;

use crate::call::Kind;
use crate::flat::{self, Flat};
use crate::wire::{Chunk, ElementType};

/// A collective in progress that folds nothing.
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
            let own = self.own.buffers();
            let is_alike = |(buffer, (element_type, &length)): (&Buffer, (ElementType, &u64))| {
                let may_differ = self.kind.may_differ(element_type);
                element_type == flat::element_type(buffer) && (may_differ || flat::length(buffer) as u64 == length)
            };
            let announced = chunk.element_types().zip(&chunk.lengths);
            let counts = [chunk.element_types.len(), chunk.lengths.len()];
            if counts != [own.len(); 2] || !own.iter().zip(announced).all(is_alike) {
                return None;
            }
            let room = match self.kind {
                // A broadcast goes into the memory that is there.
                Kind::Broadcast { .. } => std::mem::take(&mut self.own).into_buffers(),
                _ => own.iter().map(flat::empty).collect(),
            };
            *theirs = Some(Flat::announced(room, &chunk.lengths)?);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn announce(kind: Kind, own: Buffer, element_type: ElementType, lengths: &[u64]) -> Option<Range<usize>> {
        let mut chunk = Chunk { lengths: lengths.to_vec(), ..Chunk::default() };
        chunk.element_types = vec![element_type.into(); lengths.len()];
        Gather::new(0, 2, vec![own], kind).expected(1, &chunk)
    }

    #[test]
    fn what_a_peer_announces_is_checked_against_what_this_rank_has_called() {
        let broadcast = Kind::Broadcast { root: 1 };
        let floats = || Buffer::F32(vec![0.0; 3]);
        assert_eq!(announce(broadcast, floats(), ElementType::F32, &[3]), Some(0..16));
        assert_eq!(announce(broadcast, floats(), ElementType::F32, &[1 << 29]), None);
        assert_eq!(announce(broadcast, floats(), ElementType::F64, &[3]), None);
        assert_eq!(announce(broadcast, floats(), ElementType::F32, &[3, 3]), None);
        assert_eq!(announce(broadcast, Buffer::Bytes(vec![1]), ElementType::Bytes, &[9]), Some(0..16));
        assert_eq!(announce(Kind::AllGather, floats(), ElementType::F32, &[5]), Some(0..24));
        assert_eq!(announce(Kind::AllGather, floats(), ElementType::U64, &[5]), None);
    }
}
