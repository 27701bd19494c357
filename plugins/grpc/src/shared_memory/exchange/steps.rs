//! Payload that goes through the windows, in steps.
//!
//! In a step every rank gives the others its contributions to a part of their slices, folds the same part of its own slice
//! out of their windows, and takes their results out of their windows. Where nothing is reduced, what a rank gives to all
//! takes the place of its result.

use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};

use super::{Exchange, Stage, fold};
use crate::call::Kind;
use crate::shared_memory::Segments;
use crate::shared_memory::segment::{Board, DEPTH, SMALL, slot, slot_bytes};

/// How many steps are done.
pub(super) struct Steps {
    /// The number of the first one, counted over all calls.
    pub(super) first: u64,
    pub(super) all: u64,
    pub(super) given: u64,
    pub(super) folded: u64,
    pub(super) taken: u64,
}

impl Exchange {
    /// Steps that the payloads need which are not small.
    pub(super) fn count_steps(&self, world_size: usize) -> u64 {
        let longest = self.longest();
        let bytes = match self.kind {
            _ if longest <= SMALL && !self.is_merged => 0,
            Kind::AllReduce(_) | Kind::ReduceScatter(_) => self.slice(&self.staged, 0, world_size).len(),
            _ => longest,
        };
        bytes.div_ceil(slot_bytes(world_size)) as u64
    }

    /// Gives, folds or takes where it is possible; says whether it was.
    pub(super) fn step(&mut self, all: &Segments) -> bool {
        let Stage::Staged(steps) = &self.stage else { return false };
        let &Steps { first, all: count, given, folded, taken } = steps;
        let board = all.own.segment.board();
        if taken < folded && self.missing_results(all, first + taken).next().is_none() {
            let bytes = self.take(all, first + taken, taken);
            self.advanced(all, |steps| &mut steps.taken, |board| &board.taken.0, first + taken + 1);
            self.tell(all, board, bytes);
        } else if folded < given && self.missing_contributions(all, first + folded).next().is_none() {
            let bytes = self.fold(all, first + folded, folded);
            self.advanced(all, |steps| &mut steps.folded, |board| &board.folded.0, first + folded + 1);
            self.tell(all, board, bytes);
        } else if given < count && self.missing_space(all, first + given).next().is_none() {
            let bytes = self.give(all, first + given, given);
            self.advanced(all, |steps| &mut steps.given, |board| &board.given.0, first + given + 1);
            self.tell(all, board, bytes);
        } else {
            return false;
        }
        true
    }

    fn advanced(
        &mut self,
        all: &Segments,
        counter: impl Fn(&mut Steps) -> &mut u64,
        number: impl Fn(&Board) -> &AtomicU64,
        count: u64,
    ) {
        if let Stage::Staged(steps) = &mut self.stage {
            *counter(steps) += 1;
        }
        number(all.own.segment.board()).store(count, Release);
    }

    /// The ranks that have not taken what lies in the slots of a step yet.
    pub(super) fn missing_space<'a>(&self, all: &'a Segments, step: u64) -> impl Iterator<Item = usize> + use<'a> {
        all.peers().filter(move |&peer| all.of(peer).board().folded.0.load(Acquire) + DEPTH <= step)
    }

    /// The ranks whose contributions to a step are missing, or that have not taken what lies in the slot of its result.
    pub(super) fn missing_contributions<'a>(
        &self,
        all: &'a Segments,
        step: u64,
    ) -> impl Iterator<Item = usize> + use<'a> {
        all.peers().filter(move |&peer| {
            let board = all.of(peer).board();
            board.given.0.load(Acquire) <= step || board.taken.0.load(Acquire) + DEPTH <= step
        })
    }

    /// The ranks whose results of a step are missing.
    pub(super) fn missing_results<'a>(&self, all: &'a Segments, step: u64) -> impl Iterator<Item = usize> + use<'a> {
        all.peers().filter(move |&peer| all.of(peer).board().folded.0.load(Acquire) <= step)
    }

    /// Writes what the others fold in a step into this rank's window.
    fn give(&self, all: &Segments, step: u64, index: u64) -> usize {
        let (Kind::AllReduce(_) | Kind::ReduceScatter(_)) = self.kind else { return 0 };
        let mut bytes = 0;
        for peer in all.peers() {
            let range = self.part(self.slice(&self.staged, peer, all.world_size), index, all.world_size);
            let start = slot(all.world_size, step, peer).start;
            // SAFETY: `missing_space` has said that the other rank has taken what was there, and it reads this when
            // `given` says so.
            self.staged.read(range.clone(), unsafe { all.own.segment.bytes_mut(start..start + range.len()) });
            bytes += range.len();
        }
        bytes
    }

    /// Folds a step of this rank's slice, or copies a step of what it gives to all, and lets the others take it.
    fn fold(&mut self, all: &Segments, step: u64, index: u64) -> usize {
        let range = match self.kind {
            Kind::AllReduce(op) | Kind::ReduceScatter(op) => {
                let range = self.part(self.slice(&self.staged, all.rank, all.world_size), index, all.world_size);
                let start = slot(all.world_size, step, all.rank).start;
                // SAFETY: `missing_contributions` has said that the other ranks have written it, and they write it again
                // when `folded` says that this rank is done with it.
                let leaf = |rank: usize| unsafe { all.of(rank).bytes(start..start + range.len()) };
                let leaf = |rank: usize| (rank != all.rank).then(|| leaf(rank));
                fold(&mut self.staged, range.clone(), &(0..all.world_size).map(leaf).collect::<Vec<_>>(), op);
                range
            }
            _ if self.gives(all.rank) => self.part(0..self.staged.len(), index, all.world_size),
            _ => 0..0,
        };
        if self.shares() {
            let start = slot(all.world_size, step, all.rank).start;
            // SAFETY: `missing_contributions` has said that the others have taken what was there, and they read this when
            // `folded` says so.
            self.staged.read(range.clone(), unsafe { all.own.segment.bytes_mut(start..start + range.len()) });
        }
        range.len()
    }

    /// Takes what the others have folded or given in a step.
    fn take(&mut self, all: &Segments, step: u64, index: u64) -> usize {
        if !self.shares() {
            return 0;
        }
        let mut bytes = 0;
        for peer in all.peers() {
            if !self.gives(peer) {
                continue;
            }
            let whole = match self.kind {
                Kind::AllReduce(_) | Kind::ReduceScatter(_) => self.slice(&self.staged, peer, all.world_size),
                _ => 0..self.gathered.get(peer).and_then(Option::as_ref).unwrap_or(&self.staged).len(),
            };
            let range = self.part(whole, index, all.world_size);
            let start = slot(all.world_size, step, peer).start;
            // SAFETY: `missing_results` has said that the other rank has written it, and it writes it again when `taken`
            // says that this rank is done with it.
            let result = unsafe { all.of(peer).bytes(start..start + range.len()) };
            bytes += range.len();
            self.gathered.get_mut(peer).and_then(Option::as_mut).unwrap_or(&mut self.staged).write(range, result);
        }
        bytes
    }

    /// The part of a range that belongs to a step of this collective.
    fn part(&self, whole: Range<usize>, index: u64, world_size: usize) -> Range<usize> {
        let slot = slot_bytes(world_size);
        let start = (whole.start + index as usize * slot).min(whole.end);
        start..(start + slot).min(whole.end)
    }
}
