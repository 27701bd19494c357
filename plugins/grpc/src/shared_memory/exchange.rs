//! One collective in progress: what this rank still has to do for it, in the order in which the others make it possible.
//!
//! 1. It writes into its segment what it has called, and its payload if that is small, and joins.
//! 2. When all have joined, it compares what they have called. A small payload is taken out of all segments, and the
//!    collective ends.
//! 3. Buffers that lie in regions on all ranks are reduced there: every rank folds its slice out of all regions and
//!    writes the result into all of them, block by block. None of it is copied anywhere else.
//! 4. Other buffers go through the windows in steps. In each step a rank gives the others its contributions to their
//!    slices, folds its own slice out of their windows, and takes their results out of their windows. A rank can be
//!    several steps ahead of another, as many as a window has slots for.
//! 5. A rank leaves the collective when nobody uses its buffers any more.
//!
//! Either way an element is folded by the same tree as over TCP. Nothing has a checksum, because nothing leaves the memory
//! of this machine, which has the results and the weights without one as well.

mod blame;
mod steps;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use mdt_plugin_api::engine::{self, Leaf};
use mdt_plugin_api::{Buffer, Dtype, ReduceOp, Region};

use self::steps::Steps;
use super::Segments;
use super::buffers::{Buffers, Part};
use super::description::Description;
use super::segment::{Board, SMALL, small_payload};
use crate::call::{Called, Kind, Request};
use crate::wire::Cause;

/// Bytes that are folded at once where regions are reduced: what was folded is still near when it is written out.
const BLOCK: usize = 128 << 10;

/// Slices begin at multiples of this, a cache line.
const ALIGNMENT: usize = 64;

/// A collective in progress.
pub(crate) struct Exchange {
    sequence: u64,
    kind: Kind,
    called: Called,
    description: Description,
    /// Buffers that lie in regions.
    direct: Buffers,
    /// All others.
    staged: Buffers,
    /// Where the direct buffers lie in the segment of each rank.
    places: Vec<Vec<usize>>,
    /// Whether buffers in regions are among the staged ones, because others' do not lie in regions.
    is_merged: bool,
    /// What `all_gather` has of the other ranks.
    gathered: Vec<Option<Buffers>>,
    stage: Stage,
    moved: Arc<AtomicU64>,
}

enum Stage {
    Joining,
    /// This part of this rank's slice of the direct buffers is not folded yet.
    Direct(Range<usize>),
    Staged(Steps),
    /// Others may still use direct buffers.
    Leaving,
    Done,
}

/// What [`Exchange::advance`] has done.
#[derive(PartialEq, Eq)]
pub(crate) enum Advance {
    /// Something; more may be possible.
    Moved,
    /// Nothing: it waits for others.
    Waits,
    Done,
}

impl Exchange {
    /// Joins a collective.
    ///
    /// # Errors
    /// The system has no memory for an unusually long description.
    pub(crate) fn join(
        all: &Segments,
        request: Request,
        [session, sequence]: [u64; 2],
        moved: Arc<AtomicU64>,
    ) -> Result<Self, Cause> {
        let called = Called::own(all.rank as u32, request.call(session, sequence), &request.buffers);
        let Request { buffers, kind } = request;
        let reduces = matches!(kind, Kind::AllReduce(_) | Kind::ReduceScatter(_));
        let places = buffers.iter().map(|buffer| all.own.offset_of(buffer).filter(|_| reduces)).collect();
        let description = Description::new(&called, places);
        if let Err(error) = description.write(&all.own, sequence) {
            let message = format!("rank {} has no memory left for collectives: {error}", all.rank);
            return Err(Cause::of(all.rank as u32, message));
        }
        let mut is_direct = description.places.iter().map(Option::is_some);
        let (direct, staged): (Vec<_>, Vec<_>) = buffers.into_iter().partition(|_| is_direct.next() == Some(true));
        let exchange = Self {
            sequence,
            kind,
            called,
            description,
            direct: direct.into_iter().collect(),
            staged: staged.into_iter().collect(),
            places: Vec::new(),
            is_merged: false,
            gathered: Vec::new(),
            stage: Stage::Joining,
            moved,
        };
        let length = exchange.staged.len();
        if exchange.gives(all.rank) && length <= SMALL {
            let start = small_payload(sequence).start;
            // SAFETY: there is memory from the beginning. Others read it before they join the next call, and this rank
            // writes it again in the call after that.
            exchange.staged.read(0..length, unsafe { all.own.segment.bytes_mut(start..start + length) });
        }
        let board = all.own.segment.board();
        board.joined.0.store(sequence, Release);
        exchange.tell(all, board, length);
        Ok(exchange)
    }

    /// Does the next thing that is possible.
    ///
    /// # Errors
    /// Ranks have called different things. Nothing was reduced.
    pub(crate) fn advance(&mut self, all: &Segments, steps: &mut u64) -> Result<Advance, Cause> {
        match &mut self.stage {
            Stage::Joining => {
                if !all.peers().all(|peer| self.has_joined(all, peer)) {
                    return Ok(Advance::Waits);
                }
                self.begin(all)?;
            }
            Stage::Direct(rest) => {
                let block = rest.start..rest.end.min(rest.start + BLOCK);
                rest.start = block.end;
                self.reduce_block(all, block);
            }
            Stage::Staged(_) => {
                if !self.step(all) {
                    return Ok(Advance::Waits);
                }
            }
            Stage::Leaving => {
                if !all.peers().all(|peer| self.has_done(all, peer)) {
                    return Ok(Advance::Waits);
                }
                self.stage = Stage::Done;
            }
            Stage::Done => return Ok(Advance::Done),
        }
        self.enter_next(all, steps);
        Ok(if matches!(self.stage, Stage::Done) { Advance::Done } else { Advance::Moved })
    }

    /// Goes on to the next stage when one is complete.
    fn enter_next(&mut self, all: &Segments, steps: &mut u64) {
        if matches!(&self.stage, Stage::Direct(rest) if rest.is_empty()) {
            let count = self.count_steps(all.world_size);
            self.stage = Stage::Staged(Steps { first: *steps, all: count, given: 0, folded: 0, taken: 0 });
        }
        if let Stage::Staged(Steps { first, all: count, taken, .. }) = self.stage
            && taken == count
        {
            *steps = first + count;
            self.stage = Stage::Done;
            if self.direct.len() > 0 {
                self.stage = Stage::Leaving;
                let board = all.own.segment.board();
                board.done.0.store(self.sequence, Release);
                self.tell(all, board, 0);
            }
        }
    }

    /// Compares what all ranks have called, and takes small payloads.
    fn begin(&mut self, all: &Segments) -> Result<(), Cause> {
        let mut theirs = Vec::new();
        for rank in 0..all.world_size {
            let description = match rank == all.rank {
                true => Some(self.description.clone()),
                false => Description::read(all.of(rank), self.sequence),
            };
            theirs.push(description.ok_or_else(|| misfit(rank))?);
        }
        for (rank, description) in
            theirs.iter().enumerate().filter(|(_, theirs)| !theirs.is_same_call(&self.description))
        {
            let chunk = description.chunk().ok_or_else(|| misfit(rank))?;
            let other = Called::theirs(rank as u32, &chunk);
            if other.call != self.called.call || !self.called.fits(self.kind, &chunk) {
                return Err(self.called.differs(&other));
            }
        }
        let are_alike = theirs.iter().all(|theirs| theirs.has_same_places(&self.description));
        if are_alike {
            self.places = theirs.iter().map(|theirs| theirs.places.iter().flatten().copied().collect()).collect();
        } else {
            self.staged = self.take_buffers().into_iter().collect();
            self.is_merged = true;
        }
        if self.kind == Kind::AllGather {
            for (rank, description) in theirs.iter().enumerate() {
                let length = description.chunk().and_then(|chunk| chunk.lengths.first().copied());
                let buffer = match rank == all.rank {
                    true => None,
                    false => Some(empty_buffer(&self.called, length).ok_or_else(|| misfit(rank))?),
                };
                self.gathered.push(buffer.map(|buffer| [buffer].into_iter().collect()));
            }
        }
        if are_alike && self.longest() <= SMALL {
            self.take_small_payloads(all);
        }
        self.stage = Stage::Direct(self.slice(&self.direct, all.rank, all.world_size));
        Ok(())
    }

    /// The bytes of the longest payload that goes through the segments.
    fn longest(&self) -> usize {
        self.gathered.iter().flatten().map(Buffers::len).chain([self.staged.len()]).max().unwrap_or_default()
    }

    fn take_small_payloads(&mut self, all: &Segments) {
        let start = small_payload(self.sequence).start;
        // SAFETY: a rank that has joined has written its payload, and changes it when all have joined the next call.
        let payload = |rank: usize, length: usize| unsafe { all.of(rank).bytes(start..start + length) };
        match self.kind {
            Kind::AllReduce(op) | Kind::ReduceScatter(op) => {
                let whole = 0..self.staged.len();
                let range =
                    if self.shares() { whole.clone() } else { self.slice(&self.staged, all.rank, all.world_size) };
                let leaf = |rank: usize| (rank != all.rank).then(|| &payload(rank, whole.end)[range.clone()]);
                fold(&mut self.staged, range.clone(), &(0..all.world_size).map(leaf).collect::<Vec<_>>(), op);
            }
            Kind::AllGather => {
                for (rank, buffers) in self.gathered.iter_mut().enumerate() {
                    if let Some(buffers) = buffers {
                        buffers.write(0..buffers.len(), payload(rank, buffers.len()));
                    }
                }
            }
            Kind::Broadcast { root } if root as usize != all.rank => {
                self.staged.write(0..self.staged.len(), payload(root as usize, self.staged.len()));
            }
            _ => {}
        }
    }

    /// Folds a block of this rank's slice of the direct buffers out of all regions, and writes it into all of them.
    fn reduce_block(&mut self, all: &Segments, block: Range<usize>) {
        let (Kind::AllReduce(op) | Kind::ReduceScatter(op)) = self.kind else { return };
        let shares = self.shares();
        for Part { buffer, bytes, .. } in self.direct.parts(block.clone()).collect::<Vec<_>>() {
            let place = |rank: usize| {
                let start = self.places[rank][buffer];
                start + bytes.start..start + bytes.end
            };
            // SAFETY: the other rank's buffer lies there, as it has said, and is lent to this collective until this rank
            // has said that it is done. Each byte is of one rank's slice, and that rank alone reads and writes it.
            let leaf = |rank: usize| (rank != all.rank).then(|| unsafe { all.of(rank).bytes(place(rank)) });
            let own = self.direct.get(buffer);
            // Types that cannot be folded are refused when a collective begins.
            let _ = engine::fold(
                own.dtype(),
                op,
                &mut own.bytes_mut()[bytes.clone()],
                &(0..all.world_size).map(leaf).collect::<Vec<_>>(),
            );
            for peer in all.peers().filter(|_| shares) {
                // SAFETY: as above.
                unsafe { all.of(peer).bytes_mut(place(peer)) }.copy_from_slice(&own.bytes()[bytes.clone()]);
            }
        }
        self.count(all.own.segment.board(), block.len());
    }

    /// Whether all ranks get what a rank has folded or given.
    fn shares(&self) -> bool {
        !matches!(self.kind, Kind::ReduceScatter(_))
    }

    /// Whether a rank has anything for the others.
    fn gives(&self, rank: usize) -> bool {
        match self.kind {
            Kind::AllReduce(_) | Kind::ReduceScatter(_) | Kind::AllGather => true,
            Kind::Broadcast { root } => rank == root as usize,
            _ => false,
        }
    }

    /// What a rank folds of these buffers.
    fn slice(&self, buffers: &Buffers, rank: usize, world_size: usize) -> Range<usize> {
        let slice = match self.kind {
            // Equal parts of the one buffer.
            Kind::ReduceScatter(_) => buffers.bytes() / world_size,
            _ => buffers.len().div_ceil(world_size).next_multiple_of(ALIGNMENT),
        };
        let start = (rank * slice).min(buffers.len());
        start..(start + slice).min(buffers.len())
    }

    /// Reports progress, and wakes the other ranks.
    fn tell(&self, all: &Segments, board: &Board, bytes: usize) {
        self.count(board, bytes);
        all.peers().for_each(|peer| all.of(peer).board().doorbell.0.ring());
    }

    fn count(&self, board: &Board, bytes: usize) {
        self.moved.fetch_add(bytes as u64 + 1, Relaxed);
        board.moved.0.fetch_add(1, Relaxed);
    }

    fn has_joined(&self, all: &Segments, peer: usize) -> bool {
        all.of(peer).board().joined.0.load(Acquire) >= self.sequence
    }

    fn has_done(&self, all: &Segments, peer: usize) -> bool {
        all.of(peer).board().done.0.load(Acquire) >= self.sequence
    }

    /// All buffers, as they were given.
    fn take_buffers(&mut self) -> Vec<Buffer> {
        let mut direct = std::mem::take(&mut self.direct).into_buffers().into_iter();
        let mut staged = std::mem::take(&mut self.staged).into_buffers().into_iter();
        let is_direct = self.description.places.iter().map(|place| place.is_some() && !self.is_merged);
        is_direct.filter_map(|is_direct| if is_direct { direct.next() } else { staged.next() }).collect()
    }

    /// The result of a collective that is done.
    pub(crate) fn finish(mut self) -> Vec<Buffer> {
        let own = self.take_buffers();
        if self.kind != Kind::AllGather {
            return own;
        }
        let mut own = own.into_iter();
        let theirs = std::mem::take(&mut self.gathered).into_iter();
        theirs.filter_map(|theirs| theirs.map_or_else(|| own.next(), |theirs| theirs.into_buffers().pop())).collect()
    }
}

impl Drop for Exchange {
    /// A collective that ends with an error keeps its direct buffers for ever: other ranks may still write to them.
    fn drop(&mut self) {
        std::mem::take(&mut self.direct).into_buffers().into_iter().for_each(std::mem::forget);
    }
}

/// Folds a range of these buffers of all ranks into this one's place. `leaves` has nothing for this rank.
fn fold(buffers: &mut Buffers, range: Range<usize>, leaves: &[Leaf<'_>], op: ReduceOp) {
    for Part { buffer, bytes, from } in buffers.parts(range).collect::<Vec<_>>() {
        let end = from + bytes.len();
        let leaves: Vec<Leaf<'_>> = leaves.iter().map(|leaf| leaf.map(|leaf| &leaf[from..end])).collect();
        let own = buffers.get(buffer);
        // Types that cannot be folded are refused when a collective begins.
        let _ = engine::fold(own.dtype(), op, &mut own.bytes_mut()[bytes], &leaves);
    }
}

/// A buffer for so many elements of the type that was called with. `None` where there is no memory for it.
fn empty_buffer(called: &Called, elements: Option<u64>) -> Option<Buffer> {
    let dtype = called.element_types.first().map_or(Dtype::U8, |&number| Dtype(number));
    let bytes = usize::try_from(elements?).ok()?.checked_mul(dtype.size())?;
    let mut words: Vec<u64> = Vec::new();
    words.try_reserve_exact(bytes.div_ceil(8)).ok()?;
    words.resize(bytes.div_ceil(8), 0);
    Region::of(words).buffer_of(dtype, 0..bytes).ok()
}

/// Ranks of one version never write such a thing.
fn misfit(rank: usize) -> Cause {
    let message = format!("rank {rank} has called something that cannot be read");
    Cause::of(rank as u32, message).help("install the same version of the plugin on all ranks")
}
