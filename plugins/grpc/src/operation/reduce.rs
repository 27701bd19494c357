//! `all_reduce`: small payloads go to every rank, which folds them itself; of large ones every rank folds a slice and
//! sends it to the others. Either way an element is folded by the same tree, so the bits are the same on all ranks.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use mdt_plugin_api::{Buffer, ReduceOp, Result};

use super::Work;
use crate::flat::Flat;
use crate::wire::CHUNK;

/// The largest payload, in bytes, that is sent to every rank whole. It must fit into one chunk.
const SMALL: usize = 64 << 10;

/// Slices begin at multiples of this, a cache line.
const ALIGNMENT: usize = 64;

/// An `all_reduce` in progress.
pub(super) struct Reduce {
    rank: u32,
    world_size: u32,
    flat: Flat,
    op: ReduceOp,
    /// Chunks of this rank's slice that came from each rank and are not folded yet.
    waiting: Vec<VecDeque<Bytes>>,
    /// The part of this rank's slice that is not folded yet; none when all is.
    to_fold: Option<Range<usize>>,
}

impl Reduce {
    pub(super) fn new(rank: u32, world_size: u32, buffers: Vec<Buffer>, op: ReduceOp) -> Self {
        let waiting = vec![VecDeque::new(); world_size as usize];
        let mut reduce = Self { rank, world_size, flat: Flat::new(buffers), op, waiting, to_fold: None };
        reduce.to_fold = Some(reduce.contribution(rank));
        reduce
    }
}

impl Work for Reduce {
    fn has_results(&self) -> bool {
        self.flat.len() > SMALL
    }

    fn contribution(&self, rank: u32) -> Range<usize> {
        let length = self.flat.len();
        if !self.has_results() {
            return 0..length;
        }
        let slice = length.div_ceil(self.world_size as usize).next_multiple_of(ALIGNMENT);
        let start = (rank as usize * slice).min(length);
        start..(start + slice).min(length)
    }

    fn expected(&mut self, _: u32, _: &[u64]) -> Option<Range<usize>> {
        Some(self.contribution(self.rank))
    }

    fn waiting(&self, rank: u32) -> usize {
        self.waiting[rank as usize].len()
    }

    fn contributed(&mut self, rank: u32, _: usize, payload: Bytes) {
        self.waiting[rank as usize].push_back(payload);
    }

    fn fold_next(&mut self) -> Option<Range<usize>> {
        let own = self.rank as usize;
        let has_come = |(rank, waiting): (usize, &VecDeque<Bytes>)| rank == own || !waiting.is_empty();
        if !self.waiting.iter().enumerate().all(has_come) {
            return None;
        }
        let rest = self.to_fold.take()?;
        let end = rest.end.min(rest.start + CHUNK);
        let leaves: Vec<Option<Bytes>> = self.waiting.iter_mut().map(VecDeque::pop_front).collect();
        self.flat.fold(rest.start..end, &leaves, self.op);
        self.to_fold = (end < rest.end).then_some(end..rest.end);
        Some(rest.start..end)
    }

    fn write_result(&mut self, start: usize, payload: &[u8]) {
        self.flat.write(start, payload);
    }

    fn read(&self, range: Range<usize>, copy: &mut BytesMut) {
        self.flat.read(range, copy);
    }

    fn finish(self: Box<Self>) -> Result<Vec<Buffer>> {
        Ok(self.flat.into_buffers())
    }
}
