//! Buffers as one range of bytes, the form in which slices and chunks are cut out of them, and stripes of that range, in
//! which several lanes work at once.
//!
//! The buffers lie one after the other, each beginning at a multiple of [`ALIGNMENT`]. Ranges are cut at multiples of it
//! too, or at the end, so that none divides an element.

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use mdt_plugin_api::engine::{Leaf, divide, fold};
use mdt_plugin_api::{Buffer, Dtype, ReduceOp};

/// Where a buffer may begin.
pub(crate) const ALIGNMENT: usize = 8;

const _: () = assert!(cfg!(target_endian = "little"), "payloads are the memory of a little-endian machine");

/// What is sent of the gaps between buffers.
const GAP: [u8; ALIGNMENT] = [0; ALIGNMENT];

/// Where the next buffer begins after one that ends here.
pub(crate) fn padded(end: usize) -> usize {
    end.next_multiple_of(ALIGNMENT)
}

/// Bytes of all these buffers and of the gaps between them.
pub(crate) fn padded_length(buffers: &[Buffer]) -> usize {
    buffers.iter().map(|buffer| padded(buffer.bytes().len())).sum()
}

/// The memory of a collective. It gives the buffers back when all its stripes are dropped.
struct Memory {
    buffers: Vec<Buffer>,
    places: Vec<Place>,
}

/// Where a buffer lies, in the range of all and in memory.
struct Place {
    range: Range<usize>,
    data: NonNull<u8>,
    dtype: Dtype,
}

// SAFETY: the pointers are those of `buffers`, which are `Send + Sync`; they are used by stripes only, each in ranges that
// no other has.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

/// Ranges of the memory of a collective that nothing else uses.
pub(crate) struct Stripe {
    memory: Arc<Memory>,
    /// Not empty, in order.
    ranges: Vec<Range<usize>>,
}

impl Stripe {
    /// Divides buffers into stripes of these ranges, which do not overlap.
    pub(crate) fn divide(mut buffers: Vec<Buffer>, stripes: Vec<Vec<Range<usize>>>) -> Vec<Self> {
        let mut all: Vec<&Range<usize>> = stripes.iter().flatten().filter(|range| !range.is_empty()).collect();
        all.sort_by_key(|range| range.start);
        assert!(all.windows(2).all(|pair| pair[0].end <= pair[1].start), "stripes overlap: {all:?}");
        let mut end = 0;
        let place = |buffer: &mut Buffer| {
            let (start, length) = (end, buffer.bytes().len());
            end = padded(start + length);
            // A slice's pointer is never null.
            let data = NonNull::new(buffer.bytes_mut().as_mut_ptr()).unwrap_or(NonNull::dangling());
            Place { range: start..start + length, data, dtype: buffer.dtype() }
        };
        let places = buffers.iter_mut().map(place).collect();
        let memory = Arc::new(Memory { buffers, places });
        let stripe = |mut ranges: Vec<Range<usize>>| {
            ranges.retain(|range| !range.is_empty());
            ranges.sort_by_key(|range| range.start);
            Self { memory: Arc::clone(&memory), ranges }
        };
        stripes.into_iter().map(stripe).collect()
    }

    /// The buffers, where this is the last of their stripes.
    pub(crate) fn into_buffers(self) -> Option<Vec<Buffer>> {
        Arc::into_inner(self.memory).map(|memory| memory.buffers)
    }

    /// A range of this stripe, in pieces that lie together.
    pub(crate) fn pieces(&self, range: Range<usize>) -> impl Iterator<Item = &[u8]> {
        self.check(&range);
        let mut at = range.start;
        std::iter::from_fn(move || {
            let (place, piece) = self.piece(at..range.end)?;
            at = piece.end;
            Some(match place {
                None => &GAP[..piece.len()],
                // SAFETY: the piece is in the buffer and in this stripe, which nothing else uses; nothing is written to it
                // while this borrows the stripe.
                Some(place) => unsafe {
                    let data = place.data.add(piece.start - place.range.start);
                    std::slice::from_raw_parts(data.as_ptr(), piece.len())
                },
            })
        })
    }

    /// The first piece of a range of this stripe that is not empty, to write to; of a gap between buffers only its length.
    pub(crate) fn piece_mut(&mut self, range: Range<usize>) -> Result<&mut [u8], usize> {
        self.check(&range);
        match self.piece(range) {
            None => Err(0),
            Some((None, gap)) => Err(gap.len()),
            Some((Some(place), piece)) => {
                // SAFETY: as in `pieces`, and this borrows the stripe for itself.
                let data = unsafe { place.data.add(piece.start - place.range.start) };
                // SAFETY: as above.
                Ok(unsafe { std::slice::from_raw_parts_mut(data.as_ptr(), piece.len()) })
            }
        }
    }

    /// Folds a range of this stripe of all ranks, in their order, into this one's place. `leaves` has nothing for this
    /// rank, and the range of every other.
    pub(crate) fn fold(&mut self, range: Range<usize>, leaves: &[Leaf<'_>], op: ReduceOp) {
        let mut parts: Vec<Leaf<'_>> = Vec::with_capacity(leaves.len());
        self.each_mut(range.clone(), |dtype, from, own| {
            let part = from - range.start..from - range.start + own.len();
            parts.clear();
            parts.extend(leaves.iter().map(|leaf| leaf.map(|payload| &payload[part.clone()])));
            // Types that cannot be folded are refused when a collective begins.
            let _ = fold(dtype, op, own, &parts);
        });
    }

    /// Divides sums of so many ranks in a range of this stripe.
    pub(crate) fn divide_sums(&mut self, range: Range<usize>, ranks: u32) {
        self.each_mut(range, |dtype, _, own| drop(divide(dtype, own, ranks)));
    }

    /// Visits the pieces of a range, each with its element type and where it lies.
    fn each_mut(&mut self, range: Range<usize>, mut visit: impl FnMut(Dtype, usize, &mut [u8])) {
        let mut at = range.start;
        while at < range.end {
            let dtype = self.piece(at..range.end).and_then(|(place, _)| place).map(|place| place.dtype);
            match self.piece_mut(at..range.end) {
                Ok(piece) => {
                    let from = at;
                    at += piece.len();
                    visit(dtype.unwrap_or(Dtype::U8), from, piece);
                }
                Err(0) => break,
                Err(gap) => at += gap,
            }
        }
    }

    /// The first piece of a range: of a buffer, or of a gap.
    fn piece(&self, range: Range<usize>) -> Option<(Option<&Place>, Range<usize>)> {
        if range.is_empty() {
            return None;
        }
        let places = &self.memory.places;
        // The first buffer that ends behind the beginning of the range; behind the last one there is a gap.
        let Some(next) = places.get(places.partition_point(|place| place.range.end <= range.start)) else {
            return Some((None, range));
        };
        Some(match next.range.start <= range.start {
            true => (Some(next), range.start..range.end.min(next.range.end)),
            false => (None, range.start..range.end.min(next.range.start)),
        })
    }

    /// Ranges of this stripe only, which nothing else uses.
    fn check(&self, range: &Range<usize>) {
        let is_in = |own: &Range<usize>| own.start <= range.start && range.end <= own.end;
        assert!(range.is_empty() || self.ranges.iter().any(is_in), "{range:?} is not in {:?}", self.ranges);
    }
}

#[cfg(test)]
mod tests {
    use mdt_plugin_api::Region;
    use proptest::prelude::*;

    use super::*;

    fn buffer() -> impl Strategy<Value = Buffer> {
        prop_oneof![
            prop::collection::vec(any::<u32>(), 0..20).prop_map(Buffer::from),
            prop::collection::vec(any::<u64>(), 0..10).prop_map(Buffer::from),
            prop::collection::vec(any::<u8>(), 0..40).prop_map(Buffer::from),
        ]
    }

    proptest! {
        #[test]
        fn what_is_read_in_pieces_and_written_elsewhere_is_the_same(
            buffers in prop::collection::vec(buffer(), 0..6),
            piece in 1usize..6,
            stripes in 1usize..4,
        ) {
            let zeros = buffers.iter().map(|buffer| {
                Region::of(vec![0u64; buffer.bytes().len().div_ceil(8)])
                    .buffer_of(buffer.dtype(), 0..buffer.bytes().len())
                    .unwrap()
            });
            let mut copies = vec![Vec::new(); stripes];
            let length = padded_length(&buffers);
            for (index, start) in (0..length).step_by(piece * ALIGNMENT).enumerate() {
                copies[index % stripes].push(start..length.min(start + piece * ALIGNMENT));
            }
            let mut copies: Vec<_> = Stripe::divide(zeros.collect(), copies);
            let whole = vec![std::iter::once(0..length).collect()];
            let source = Stripe::divide(buffers.clone(), whole).swap_remove(0);
            for copy in &mut copies {
                for range in copy.ranges.clone() {
                    let payload: Vec<u8> = source.pieces(range.clone()).flatten().copied().collect();
                    prop_assert_eq!(payload.len(), range.len());
                    let mut at = range.start;
                    while at < range.end {
                        at += match copy.piece_mut(at..range.end) {
                            Ok(place) => {
                                let from = at - range.start;
                                place.copy_from_slice(&payload[from..from + place.len()]);
                                place.len()
                            }
                            Err(gap) => gap,
                        };
                    }
                }
            }
            let last = copies.pop().unwrap();
            drop(copies);
            prop_assert_eq!(last.into_buffers().unwrap(), buffers);
        }
    }

    #[test]
    #[should_panic(expected = "stripes overlap")]
    fn stripes_never_overlap() {
        Stripe::divide(vec![vec![0u8; 16].into()], vec![vec![0..9], vec![8..16]]);
    }

    #[test]
    #[should_panic(expected = "is not in")]
    fn a_stripe_reaches_nothing_of_another() {
        let mut stripes = Stripe::divide(vec![vec![0u8; 16].into()], vec![vec![0..8], vec![8..16]]);
        let _ = stripes[0].piece_mut(4..12);
    }
}
