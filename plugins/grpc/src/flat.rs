//! Buffers as one range of bytes, the form in which slices and chunks are cut out of them.
//!
//! They lie one after the other, each beginning at a multiple of [`ALIGNMENT`]. Ranges are cut at multiples of it too,
//! or at the end, so that none divides an element.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use mdt_plugin_api::{Buffer, ReduceOp};

use crate::pairwise_reduction::{Leaf, reduce};
use crate::wire::ElementType;

/// Where a buffer may begin.
const ALIGNMENT: usize = 8;

const _: () = assert!(cfg!(target_endian = "little"), "payloads are the memory of a little-endian machine");

/// Buffers as one range of bytes.
#[derive(Default)]
pub(crate) struct Flat {
    buffers: Vec<Buffer>,
    /// Where each begins.
    starts: Vec<usize>,
    length: usize,
}

impl Flat {
    pub(crate) fn new(buffers: Vec<Buffer>) -> Self {
        let mut length = 0;
        let mut start = |buffer| {
            let start = length;
            length = (start + bytes(buffer).len()).next_multiple_of(ALIGNMENT);
            start
        };
        let starts = buffers.iter().map(&mut start).collect();
        Self { buffers, starts, length }
    }

    /// Bytes of all buffers and of the gaps between them.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn into_buffers(self) -> Vec<Buffer> {
        self.buffers
    }

    /// A copy of this range.
    pub(crate) fn read(&self, range: Range<usize>) -> Bytes {
        let mut copy = BytesMut::with_capacity(range.len());
        for (buffer, part) in self.parts(&range) {
            copy.put_bytes(0, self.starts[buffer] + part.start - range.start - copy.len());
            copy.put_slice(&bytes(&self.buffers[buffer])[part]);
        }
        copy.put_bytes(0, range.len() - copy.len());
        copy.freeze()
    }

    /// Overwrites what lies from `start` on.
    pub(crate) fn write(&mut self, start: usize, payload: &[u8]) {
        let range = start..start + payload.len();
        for (buffer, part) in self.parts(&range).collect::<Vec<_>>() {
            let from = self.starts[buffer] + part.start - start;
            let source = &payload[from..from + part.len()];
            bytes_mut(&mut self.buffers[buffer])[part].copy_from_slice(source);
        }
    }

    /// Folds this range of all ranks, in their order, into this one's place. `leaves` has nothing for this rank.
    pub(crate) fn fold(&mut self, range: Range<usize>, leaves: &[Option<Bytes>], op: ReduceOp) {
        for (buffer, part) in self.parts(&range).collect::<Vec<_>>() {
            let from = self.starts[buffer] + part.start - range.start;
            let leaves: Vec<Leaf<'_>> =
                leaves.iter().map(|leaf| leaf.as_ref().map(|payload| &payload[from..from + part.len()])).collect();
            let elements = |size: usize| part.start / size..part.end / size;
            match &mut self.buffers[buffer] {
                Buffer::F32(values) => reduce(&mut values[elements(4)], &leaves, op),
                Buffer::F64(values) => reduce(&mut values[elements(8)], &leaves, op),
                Buffer::U64(values) => reduce(&mut values[elements(8)], &leaves, op),
                Buffer::Bytes(_) => {} // refused when the collective was begun
            }
        }
    }

    /// The buffers that overlap this range, each with the part of its own bytes that does.
    fn parts(&self, range: &Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
        let range = range.clone();
        let first = self.starts.partition_point(|&start| start <= range.start).saturating_sub(1);
        let last = self.starts.partition_point(|&start| start < range.end);
        (first..last.max(first)).filter_map(move |index| {
            let (start, length) = (self.starts[index], bytes(&self.buffers[index]).len());
            let part = range.start.saturating_sub(start).min(length)..(range.end - start).min(length);
            (!part.is_empty()).then_some((index, part))
        })
    }
}

/// What a buffer holds, as the wire names it.
pub(crate) fn element_type(buffer: &Buffer) -> ElementType {
    match buffer {
        Buffer::F32(_) => ElementType::F32,
        Buffer::F64(_) => ElementType::F64,
        Buffer::U64(_) => ElementType::U64,
        Buffer::Bytes(_) => ElementType::Bytes,
    }
}

/// Number of elements.
pub(crate) fn length(buffer: &Buffer) -> usize {
    match buffer {
        Buffer::F32(values) => values.len(),
        Buffer::F64(values) => values.len(),
        Buffer::U64(values) => values.len(),
        Buffer::Bytes(values) => values.len(),
    }
}

/// A buffer of zeros; nothing where the type is no buffer's, or there is no memory for so many.
pub(crate) fn zeros(element_type: ElementType, length: u64) -> Option<Buffer> {
    fn vector<T: Clone + Default>(length: u64) -> Option<Vec<T>> {
        let length = usize::try_from(length).ok()?;
        let mut values = Vec::new();
        values.try_reserve_exact(length).ok()?;
        values.resize(length, T::default());
        Some(values)
    }
    Some(match element_type {
        ElementType::F32 => Buffer::F32(vector(length)?),
        ElementType::F64 => Buffer::F64(vector(length)?),
        ElementType::U64 => Buffer::U64(vector(length)?),
        ElementType::Bytes => Buffer::Bytes(vector(length)?),
        ElementType::Unspecified | ElementType::Mixed => return None,
    })
}

fn bytes(buffer: &Buffer) -> &[u8] {
    match buffer {
        Buffer::F32(values) => bytemuck::cast_slice(values),
        Buffer::F64(values) => bytemuck::cast_slice(values),
        Buffer::U64(values) => bytemuck::cast_slice(values),
        Buffer::Bytes(values) => values,
    }
}

fn bytes_mut(buffer: &mut Buffer) -> &mut [u8] {
    match buffer {
        Buffer::F32(values) => bytemuck::cast_slice_mut(values),
        Buffer::F64(values) => bytemuck::cast_slice_mut(values),
        Buffer::U64(values) => bytemuck::cast_slice_mut(values),
        Buffer::Bytes(values) => values,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn buffer() -> impl Strategy<Value = Buffer> {
        prop_oneof![
            prop::collection::vec(any::<f32>(), 0..20).prop_map(Buffer::F32),
            prop::collection::vec(any::<u64>(), 0..10).prop_map(Buffer::U64),
            prop::collection::vec(any::<u8>(), 0..40).prop_map(Buffer::Bytes),
        ]
    }

    proptest! {
        #[test]
        fn what_is_read_in_pieces_and_written_elsewhere_is_the_same(
            buffers in prop::collection::vec(buffer(), 0..6),
            piece in 1usize..6,
        ) {
            let source = Flat::new(buffers);
            let empty = source.buffers.iter().map(|buffer| zeros(element_type(buffer), length(buffer) as u64).unwrap());
            let mut copy = Flat::new(empty.collect());
            prop_assert_eq!(copy.len(), source.len());
            for start in (0..source.len()).step_by(piece * ALIGNMENT) {
                let end = source.len().min(start + piece * ALIGNMENT);
                let payload = source.read(start..end);
                prop_assert_eq!(payload.len(), end - start);
                copy.write(start, &payload);
            }
            for (copy, source) in copy.buffers.iter().zip(&source.buffers) {
                prop_assert_eq!(bytes(copy), bytes(source));
            }
        }
    }
}
