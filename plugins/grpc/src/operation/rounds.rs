//! What a rank sends to which other and receives from which other in a collective, round by round.

use std::ops::Range;

use mdt_plugin_api::engine::partials_are_elements;
use mdt_plugin_api::{Dtype, ReduceOp};

use crate::call::Kind;
use crate::memory::ALIGNMENT;

/// The largest payload, in bytes, that is not divided among lanes.
const SMALL: usize = 64 << 10;

/// The largest number of ranks of which each sends to all others directly. Beyond, large payloads are halved again and
/// again.
const DIRECT: usize = 16;

/// Slices begin at multiples of this, a cache line.
const CACHE_LINE: usize = 64;

/// One round. Ranges and offsets are bytes in all buffers of a rank; there is one entry for each rank of the job.
#[derive(Clone, Debug, Default)]
pub(super) struct Round {
    /// What is sent to each rank: an empty range is one empty chunk.
    pub(super) sends: Vec<Option<Range<usize>>>,
    /// What comes from each rank.
    pub(super) expects: Vec<Option<Range<usize>>>,
    /// What is done with it.
    pub(super) place: Place,
    /// Whether what this rank has folded goes to all others, and theirs to this one.
    pub(super) shares: bool,
    /// Sums that are divided before the round begins.
    pub(super) divides: Option<Range<usize>>,
}

/// Where what comes from other ranks goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Place {
    /// To its place in this rank's buffers.
    #[default]
    Own,
    /// To a buffer of the rank that it comes from.
    Gathered,
    /// It is folded with this range of this rank's buffers, in the order of these ranks.
    Folded { range: Range<usize>, order: Vec<usize>, op: ReduceOp },
}

/// A collective as one rank sees it.
#[derive(Clone, Copy)]
pub(super) struct Plan<'a> {
    pub(super) kind: Kind,
    pub(super) rank: usize,
    pub(super) ranks: usize,
    /// Element types of the buffers.
    pub(super) dtypes: &'a [Dtype],
    /// Bytes of all buffers; with the gaps between them, where there are several.
    pub(super) length: usize,
    /// The largest payload, in bytes, that is sent to every rank whole and folded by each.
    pub(super) whole: usize,
}

impl Plan<'_> {
    /// The ranges in which each of so many lanes works, at least one.
    pub(super) fn stripes(&self, lanes: usize) -> Vec<Vec<Range<usize>>> {
        match self.kind {
            Kind::ReduceScatter(_) if self.length > SMALL => {
                let parts = divided(0..self.length, self.ranks, self.length / self.ranks);
                let part = |part: &Range<usize>| divided(part.clone(), lanes, slice(part.len(), lanes));
                let stripes: Vec<Vec<Range<usize>>> = parts.iter().map(part).collect();
                (0..lanes).map(|lane| stripes.iter().map(|part| part[lane].clone()).collect()).collect()
            }
            Kind::AllReduce(_) | Kind::Broadcast { .. } if self.length > SMALL => {
                let stripes = divided(0..self.length, lanes, slice(self.length, lanes));
                stripes.into_iter().map(|stripe| vec![stripe]).collect()
            }
            Kind::ReduceScatter(_) => vec![divided(0..self.length, self.ranks, self.length / self.ranks)],
            _ => vec![std::iter::once(0..self.length).collect()],
        }
    }

    /// The rounds in one of these stripes.
    pub(super) fn rounds(&self, stripe: &[Range<usize>]) -> Vec<Round> {
        let &Self { kind, rank, ranks, .. } = self;
        let whole = stripe.first().cloned().unwrap_or_default();
        let all = |range: &Range<usize>| vec![Some(range.clone()); ranks];
        let order = || (0..ranks).collect();
        match kind {
            Kind::AllReduce(op) if self.length <= self.whole => {
                let place = Place::Folded { range: whole.clone(), order: order(), op };
                vec![Round { sends: all(&whole), expects: all(&whole), place, ..Round::default() }]
            }
            Kind::AllReduce(op) if ranks > DIRECT && self.dtypes.iter().all(|dtype| partials_are_elements(*dtype)) => {
                halving(rank, ranks, whole, op)
            }
            Kind::AllReduce(op) => {
                let slices = divided(whole.clone(), ranks, slice(whole.len(), ranks));
                direct(rank, slices, op, true)
            }
            Kind::ReduceScatter(op) => direct(rank, stripe.to_vec(), op, false),
            Kind::AllGather => {
                let expects = all(&whole); // their lengths are known when their first chunk comes
                vec![Round { sends: all(&whole), expects, place: Place::Gathered, ..Round::default() }]
            }
            Kind::Broadcast { root } => {
                let of = |giver: usize| if giver == root as usize { whole.clone() } else { 0..0 };
                let (sends, expects) = (all(&of(rank)), (0..ranks).map(|giver| Some(of(giver))).collect());
                vec![Round { sends, expects, ..Round::default() }]
            }
            Kind::Barrier => vec![announcement(ranks)],
            Kind::Send { to } => {
                vec![Round { sends: only(ranks, to as usize, whole), expects: none(ranks), ..Round::default() }]
            }
            Kind::Receive { from } => {
                vec![Round { sends: none(ranks), expects: only(ranks, from as usize, whole), ..Round::default() }]
            }
        }
    }
}

/// Every rank folds a slice of all.
fn direct(rank: usize, slices: Vec<Range<usize>>, op: ReduceOp, shares: bool) -> Vec<Round> {
    let (ranks, range) = (slices.len(), slices[rank].clone());
    let expects = vec![Some(range.clone()); ranks];
    let place = Place::Folded { range, order: (0..ranks).collect(), op };
    vec![Round { sends: slices.into_iter().map(Some).collect(), expects, place, shares, divides: None }]
}

/// A round by which every rank knows that all others have joined.
fn announcement(ranks: usize) -> Round {
    Round { sends: vec![Some(0..0); ranks], expects: vec![Some(0..0); ranks], ..Round::default() }
}

fn none(ranks: usize) -> Vec<Option<Range<usize>>> {
    vec![None; ranks]
}

fn only(ranks: usize, rank: usize, range: Range<usize>) -> Vec<Option<Range<usize>>> {
    let mut entries = none(ranks);
    entries[rank] = Some(range);
    entries
}

/// Recursive halving over the pairwise tree, then the same way back.
///
/// The ranks below a node of the tree hold its sums, each of another part. Where two nodes of equal size meet, every rank of
/// one exchanges half of its part with a rank of the other; where the right one is smaller, its ranks give theirs to those
/// of the left one. On the way back everybody who gave sums gets the whole ones.
fn halving(rank: usize, ranks: usize, whole: Range<usize>, op: ReduceOp) -> Vec<Round> {
    // A mean is a sum that is divided once, at the end.
    let partial = if op == ReduceOp::Mean { ReduceOp::Sum } else { op };
    let mut rounds = Vec::new();
    let mut nodes: Vec<Vec<(usize, Range<usize>)>> = (0..ranks).map(|rank| vec![(rank, whole.clone())]).collect();
    while nodes.len() > 1 {
        let mut round = Round { sends: none(ranks), expects: none(ranks), ..Round::default() };
        let mut above = Vec::new();
        let mut pairs = nodes.into_iter();
        while let Some(left) = pairs.next() {
            let Some(right) = pairs.next() else {
                above.push(left); // it meets another one further up
                continue;
            };
            let mut kept = Vec::new();
            let mut transfer = |from: usize, to: usize, range: &Range<usize>| {
                if from == rank {
                    round.sends[to] = Some(range.clone());
                }
                if to == rank {
                    round.expects[from] = Some(range.clone());
                    let order = if rank < from { vec![rank, from] } else { vec![from, rank] };
                    round.place = Place::Folded { range: range.clone(), order, op: partial };
                }
            };
            if left.len() == right.len() {
                for ((a, part), (b, _)) in left.into_iter().zip(right) {
                    let [first, second] = halves(part);
                    transfer(b, a, &first);
                    transfer(a, b, &second);
                    kept.extend([(a, first), (b, second)]);
                }
                kept.sort_by_key(|(_, part)| part.start);
            } else {
                for (a, part) in left {
                    let is_of =
                        |(_, theirs): &&(usize, Range<usize>)| theirs.start <= part.start && part.end <= theirs.end;
                    if let Some((b, _)) = right.iter().find(is_of) {
                        transfer(*b, a, &part);
                    }
                    kept.push((a, part));
                }
            }
            above.push(kept);
        }
        rounds.push(round);
        nodes = above;
    }
    let back = |round: &Round| Round { sends: round.expects.clone(), expects: round.sends.clone(), ..Round::default() };
    let mut back: Vec<Round> = rounds.iter().rev().map(back).collect();
    if op == ReduceOp::Mean
        && let Some((_, part)) = nodes.concat().into_iter().find(|(owner, _)| *owner == rank)
        && let Some(first) = back.first_mut()
    {
        first.divides = Some(part);
    }
    std::iter::once(announcement(ranks)).chain(rounds).chain(back).collect()
}

/// A part in two, of which the first is the longer.
fn halves(part: Range<usize>) -> [Range<usize>; 2] {
    let middle = part.end.min(part.start + slice(part.len(), 2));
    [part.start..middle, middle..part.end]
}

/// Bytes of each of so many slices.
fn slice(length: usize, slices: usize) -> usize {
    length.div_ceil(slices).next_multiple_of(CACHE_LINE)
}

/// A range in slices of so many bytes, the last ones shorter or empty.
fn divided(range: Range<usize>, slices: usize, bytes: usize) -> Vec<Range<usize>> {
    let start = |slice: usize| range.end.min(range.start + slice * bytes);
    (0..slices).map(|slice| start(slice)..start(slice + 1)).collect()
}

const _: () = assert!(CACHE_LINE.is_multiple_of(ALIGNMENT));

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What every rank has at the end, where elements are bytes and a sum is the text of the tree that has made it.
    fn run(ranks: usize, length: usize, op: ReduceOp) -> Vec<Vec<String>> {
        let mut memory: Vec<Vec<String>> = (0..ranks).map(|rank| vec![rank.to_string(); length]).collect();
        let mut rounds: Vec<_> = (0..ranks).map(|rank| halving(rank, ranks, 0..length, op).into_iter()).collect();
        while let Some(current) = rounds.iter_mut().map(Iterator::next).collect::<Option<Vec<Round>>>() {
            for (rank, round) in current.iter().enumerate() {
                for at in round.divides.clone().into_iter().flatten() {
                    memory[rank][at] = format!("{}/{ranks}", memory[rank][at]);
                }
            }
            let before = memory.clone();
            for (rank, round) in current.iter().enumerate() {
                for (from, range) in round.expects.iter().enumerate() {
                    let Some(range) = range else { continue };
                    assert_eq!(current[from].sends[rank].as_ref(), Some(range), "{from} to {rank}");
                    for at in range.clone() {
                        memory[rank][at] = match &round.place {
                            Place::Folded { range: own, order, .. } => {
                                assert_eq!(own, range);
                                let terms: Vec<&str> = order.iter().map(|from| before[*from][at].as_str()).collect();
                                format!("({})", terms.join("+"))
                            }
                            _ => before[from][at].clone(),
                        };
                    }
                }
            }
        }
        memory
    }

    /// The tree as its definition has it.
    fn tree(ranks: Range<usize>) -> String {
        match ranks.len() {
            1 => ranks.start.to_string(),
            length => {
                let middle = ranks.start + length.next_power_of_two() / 2;
                format!("({}+{})", tree(ranks.start..middle), tree(middle..ranks.end))
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn halving_folds_by_the_tree_for_any_number_of_ranks(ranks in 2usize..40, length in 0usize..200) {
            for own in run(ranks, length, ReduceOp::Sum) {
                prop_assert_eq!(own, vec![tree(0..ranks); length]);
            }
            for own in run(ranks, length, ReduceOp::Mean) {
                prop_assert_eq!(own, vec![format!("{}/{ranks}", tree(0..ranks)); length]);
            }
        }
    }
}
