//! Buffers as one range of bytes, the form in which slices and chunks are cut out of them.
//!
//! They lie one after the other, each beginning at a multiple of [`ALIGNMENT`]. Ranges are cut at multiples of it too,
//! or at the end, so that none divides an element.

use std::ops::Range;

use bytemuck::cast_slice_mut;
use bytes::{BufMut, Bytes, BytesMut};
use mdt_plugin_api::{Buffer, Dtype, ReduceOp};

use crate::pairwise_reduction::{Leaf, reduce};

/// Where a buffer may begin.
const ALIGNMENT: usize = 8;

const _: () = assert!(cfg!(target_endian = "little"), "payloads are the memory of a little-endian machine");

/// Buffers as one range of bytes.
#[derive(Default)]
pub(crate) struct Flat {
    buffers: Vec<Buffer>,
    /// Where each lies.
    places: Vec<Range<usize>>,
    length: usize,
}

impl Flat {
    pub(crate) fn new(buffers: Vec<Buffer>) -> Self {
        let mut flat = Self::default();
        for buffer in buffers {
            let end = flat.length + buffer.bytes().len();
            flat.places.push(flat.length..end);
            flat.length = padded(end);
            flat.buffers.push(buffer);
        }
        flat
    }

    /// Bytes of all buffers and of the gaps between them.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn buffers(&self) -> &[Buffer] {
        &self.buffers
    }

    pub(crate) fn into_buffers(self) -> Vec<Buffer> {
        self.buffers
    }

    /// Appends a copy of this range.
    pub(crate) fn read(&self, range: Range<usize>, copy: &mut BytesMut) {
        let begin = copy.len();
        for (buffer, part) in self.parts(&range) {
            copy.put_bytes(0, self.places[buffer].start + part.start - range.start - (copy.len() - begin));
            copy.put_slice(&self.buffers[buffer].bytes()[part]);
        }
        copy.put_bytes(0, range.len() - (copy.len() - begin));
    }

    /// Overwrites what lies from `start` on.
    pub(crate) fn write(&mut self, start: usize, payload: &[u8]) {
        let range = start..start + payload.len();
        for (buffer, part) in self.parts(&range).collect::<Vec<_>>() {
            let from = self.places[buffer].start + part.start - start;
            let source = &payload[from..from + part.len()];
            self.buffers[buffer].bytes_mut()[part].copy_from_slice(source);
        }
    }

    /// Folds this range of all ranks, in their order, into this one's place. `leaves` has nothing for this rank.
    pub(crate) fn fold(&mut self, range: Range<usize>, leaves: &[Option<Bytes>], op: ReduceOp) {
        for (buffer, part) in self.parts(&range).collect::<Vec<_>>() {
            let from = self.places[buffer].start + part.start - range.start;
            let leaves: Vec<Leaf<'_>> =
                leaves.iter().map(|leaf| leaf.as_ref().map(|payload| &payload[from..from + part.len()])).collect();
            let bytes = &mut self.buffers[buffer];
            match bytes.dtype() {
                Dtype::F32 => reduce::<f32>(cast_slice_mut(&mut bytes.bytes_mut()[part]), &leaves, op),
                Dtype::F64 => reduce::<f64>(cast_slice_mut(&mut bytes.bytes_mut()[part]), &leaves, op),
                Dtype::U64 => reduce::<u64>(cast_slice_mut(&mut bytes.bytes_mut()[part]), &leaves, op),
                _ => {} // refused when the collective was begun
            }
        }
    }

    /// The buffers that overlap this range, each with the part of its own bytes that does.
    fn parts(&self, range: &Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
        let range = range.clone();
        let first = self.places.partition_point(|place| place.start <= range.start).saturating_sub(1);
        let last = self.places.partition_point(|place| place.start < range.end);
        (first..last.max(first)).filter_map(move |index| {
            let (start, length) = (self.places[index].start, self.places[index].len());
            let part = range.start.saturating_sub(start).min(length)..(range.end - start).min(length);
            (!part.is_empty()).then_some((index, part))
        })
    }
}

/// Where the next buffer begins after one that ends here.
pub(crate) fn padded(end: usize) -> usize {
    end.next_multiple_of(ALIGNMENT)
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
        ) {
            let source = Flat::new(buffers);
            let zeros = source.buffers.iter().map(|buffer| {
                Region::of(vec![0u64; buffer.bytes().len().div_ceil(8)])
                    .buffer_of(buffer.dtype(), 0..buffer.bytes().len())
                    .unwrap()
            });
            let mut copy = Flat::new(zeros.collect());
            prop_assert_eq!(copy.len(), source.len());
            for start in (0..source.len()).step_by(piece * ALIGNMENT) {
                let end = source.len().min(start + piece * ALIGNMENT);
                let mut payload = BytesMut::new();
                source.read(start..end, &mut payload);
                prop_assert_eq!(payload.len(), end - start);
                copy.write(start, &payload);
            }
            prop_assert_eq!(copy.buffers, source.buffers);
        }
    }
}
