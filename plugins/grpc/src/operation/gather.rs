//! `all_gather`, `broadcast` and `barrier`: data is moved and not reduced.

use std::ops::Range;

use bytes::Bytes;
use mdt_plugin_api::Buffer;

use super::Work;
use crate::call::Kind;
use crate::flat::{self, Flat};

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
}

impl Work for Gather {
    fn contribution(&self, _: u32) -> Range<usize> {
        if self.gives(self.rank) { 0..self.own.len() } else { 0..0 }
    }

    fn expected(&mut self, rank: u32, lengths: &[u64]) -> Option<Range<usize>> {
        if !self.gives(rank) {
            return Some(0..0);
        }
        let theirs = &mut self.others[rank as usize];
        if theirs.is_none() {
            let room = match self.kind {
                // A broadcast goes into the memory that is there.
                Kind::Broadcast { .. } => std::mem::take(&mut self.own).into_buffers(),
                _ => self.own.buffers().iter().map(flat::empty).collect(),
            };
            *theirs = Some(Flat::announced(room, lengths)?);
        }
        theirs.as_ref().map(|theirs| 0..theirs.len())
    }

    fn contributed(&mut self, rank: u32, start: usize, payload: Bytes) {
        if let Some(theirs) = &mut self.others[rank as usize] {
            theirs.write(start, &payload);
        }
    }

    fn read(&self, range: Range<usize>) -> Bytes {
        self.own.read(range)
    }

    fn finish(mut self: Box<Self>) -> Vec<Buffer> {
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
