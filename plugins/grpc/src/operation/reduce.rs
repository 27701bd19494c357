//! `reduce_scatter`: every rank folds its part. `all_reduce`: small payloads go to every rank, which folds them itself; of large ones every rank folds a slice and
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

/// A reduction in progress.
pub(super) struct Reduce {
    rank: u32,
    flat: Flat,
    op: ReduceOp,
    /// Bytes of each rank's slice; none where every rank folds everything.
    slice: Option<usize>,
    /// Whether what ranks have folded is sent to the others.
    shares: bool,
    /// Chunks of this rank's slice that came from each rank and are not folded yet.
    waiting: Vec<VecDeque<Bytes>>,
    /// The part of this rank's slice that is not folded yet; none when all is.
    to_fold: Option<Range<usize>>,
}

impl Reduce {
    /// An `all_reduce`.
    pub(super) fn all(rank: u32, world_size: u32, buffers: Vec<Buffer>, op: ReduceOp) -> Self {
        let flat = Flat::new(buffers);
        let slice = flat.len().div_ceil(world_size as usize).next_multiple_of(ALIGNMENT);
        let shares = flat.len() > SMALL;
        Self::new(rank, world_size, flat, op, shares.then_some(slice), shares)
    }

    /// A `reduce_scatter` of a buffer whose elements can be divided by the number of ranks.
    pub(super) fn scatter(rank: u32, world_size: u32, buffers: Vec<Buffer>, op: ReduceOp) -> Self {
        let bytes: usize = buffers.iter().map(|buffer| buffer.bytes().len()).sum();
        Self::new(rank, world_size, Flat::new(buffers), op, Some(bytes / world_size as usize), false)
    }

    fn new(rank: u32, world_size: u32, flat: Flat, op: ReduceOp, slice: Option<usize>, shares: bool) -> Self {
        let waiting = vec![VecDeque::new(); world_size as usize];
        let mut reduce = Self { rank, flat, op, slice, shares, waiting, to_fold: None };
        reduce.to_fold = Some(reduce.contribution(rank));
        reduce
    }
}

impl Work for Reduce {
    fn has_results(&self) -> bool {
        self.shares
    }

    fn folds_what_it_sends(&self) -> bool {
        self.slice.is_none()
    }

    fn contribution(&self, rank: u32) -> Range<usize> {
        let length = self.flat.len();
        let Some(slice) = self.slice else { return 0..length };
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
