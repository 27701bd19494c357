//! The direct reduction: every rank folds one part of the elements and sends it to all others, piece by piece.

use std::collections::VecDeque;
use std::ops::Range;

use mdt_plugin_api::engine::{Course, Leaf, fold};
use mdt_plugin_api::{Buffer, ReduceOp, Result};

use crate::library::{Request, Tag};
use crate::ranks::Ranks;

/// Bytes of a piece.
const PIECE: usize = 256 << 10;

/// Rounds whose pieces are on their way while an earlier one is folded.
const AHEAD: usize = 4;

/// The parts of a buffer, one per rank, and the pieces that they are cut into.
struct Parts {
    bytes: usize,
    /// Bytes of each part but the last, whole elements.
    part: usize,
}

impl Parts {
    /// The bytes of a rank's piece in a round; empty behind the end.
    fn piece(&self, rank: usize, round: usize) -> Range<usize> {
        let end = self.bytes.min((rank + 1) * self.part);
        let start = (rank * self.part + round * PIECE).min(end);
        start..end.min(start + PIECE)
    }
}

/// Folds the buffer of all ranks, in place. With `gather` every rank gets the parts of the others, too.
pub(crate) fn reduce(
    ranks: &mut Ranks,
    buffer: &mut Buffer,
    op: ReduceOp,
    gather: bool,
    course: &Course,
) -> Result<()> {
    let (size, own, element) = (ranks.library.size(), ranks.library.rank(), buffer.dtype().size());
    let bytes = buffer.bytes().len();
    let parts = Parts { bytes, part: (bytes / element).div_ceil(size) * element };
    let rounds = parts.part.div_ceil(PIECE);
    ranks.scratch.resize(ranks.scratch.len().max((AHEAD + 1) * size * PIECE), 0);
    let data = buffer.bytes_mut().as_mut_ptr();
    let place = |round: usize, rank: usize| (round % (AHEAD + 1) * size + rank) * PIECE;
    let (mut folding, mut gathering) = (VecDeque::new(), VecDeque::<Vec<Request>>::new());
    for round in 0..rounds + AHEAD {
        if round < rounds {
            let mut requests = Vec::with_capacity(2 * size);
            for peer in ranks.peers() {
                let (mine, theirs) = (parts.piece(own, round), parts.piece(peer, round));
                // SAFETY: a place of the scratch memory is used by one round at a time; a peer's piece of the buffer is only
                // sent until this round's requests are done. After an error neither memory is freed.
                unsafe {
                    let scratch = ranks.scratch.as_mut_ptr().add(place(round, peer));
                    requests.push(ranks.library.receive(Some(peer), Tag::Fold, scratch, mine.len())?);
                    requests.push(ranks.library.send(peer, Tag::Fold, data.add(theirs.start), theirs.len())?);
                }
            }
            folding.push_back(requests);
        }
        let Some(round) = round.checked_sub(AHEAD) else { continue };
        let Some(mut requests) = folding.pop_front() else { continue };
        ranks.wait(&mut requests, course)?;
        let mine = parts.piece(own, round);
        // SAFETY: this rank's piece lies in the buffer, and no transfer uses it now.
        let piece = unsafe { std::slice::from_raw_parts_mut(data.add(mine.start), mine.len()) };
        fold_piece(&ranks.scratch[place(round, 0)..][..size * PIECE], own, piece, buffer.dtype(), op)?;
        course.moved(mine.len() * (size - 1));
        if gather {
            for peer in ranks.peers() {
                let theirs = parts.piece(peer, round);
                // SAFETY: this rank's piece is only read from now on, and a peer's is used by this transfer alone: that it
                // was sent is done. After an error the buffer is not freed.
                unsafe {
                    let into = data.add(theirs.start);
                    requests.push(ranks.library.receive(Some(peer), Tag::Folded, into, theirs.len())?);
                    requests.push(ranks.library.send(peer, Tag::Folded, data.add(mine.start), mine.len())?);
                }
            }
            gathering.push_back(requests);
        }
        if gathering.len() > AHEAD
            && let Some(mut requests) = gathering.pop_front()
        {
            ranks.wait(&mut requests, course)?;
            course.moved(PIECE);
        }
    }
    gathering.into_iter().try_for_each(|mut requests| ranks.wait(&mut requests, course))
}

/// Folds what the others sent, which lies in order of ranks, with this rank's piece, into it.
fn fold_piece(scratch: &[u8], own: usize, piece: &mut [u8], dtype: mdt_plugin_api::Dtype, op: ReduceOp) -> Result<()> {
    let theirs = scratch.chunks_exact(PIECE).map(|rank| &rank[..piece.len()]).enumerate();
    let leaves: Vec<Leaf<'_>> = theirs.map(|(rank, leaf)| (rank != own).then_some(leaf)).collect();
    fold(dtype, op, piece, &leaves)
}
