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
    /// Where each lies.
    places: Vec<Range<usize>>,
    length: usize,
}

impl Flat {
    pub(crate) fn new(buffers: Vec<Buffer>) -> Self {
        let mut flat = Self::default();
        for buffer in buffers {
            let length = bytes(&buffer).len();
            flat.push(buffer, length);
        }
        flat
    }

    /// Buffers of these numbers of elements, of which nothing has come yet. Those that are there already are used where
    /// they have the right length; others grow with what is written to them. `None` where no machine has so much memory.
    pub(crate) fn announced(buffers: Vec<Buffer>, lengths: &[u64]) -> Option<Self> {
        let mut flat = Self::default();
        for (mut buffer, &elements) in buffers.into_iter().zip(lengths) {
            let bytes = usize::try_from(elements).ok()?.checked_mul(element_size(&buffer))?;
            if length(&buffer) as u64 != elements {
                buffer = empty(&buffer);
            }
            if flat.length.checked_add(bytes)? > isize::MAX as usize - ALIGNMENT {
                return None;
            }
            flat.push(buffer, bytes);
        }
        Some(flat)
    }

    /// Adds a buffer that has, or will have, this many bytes.
    fn push(&mut self, buffer: Buffer, bytes: usize) {
        let end = self.length + bytes;
        self.places.push(self.length..end);
        self.length = end.next_multiple_of(ALIGNMENT);
        self.buffers.push(buffer);
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

    /// A copy of this range.
    pub(crate) fn read(&self, range: Range<usize>) -> Bytes {
        let mut copy = BytesMut::with_capacity(range.len());
        for (buffer, part) in self.parts(&range) {
            copy.put_bytes(0, self.places[buffer].start + part.start - range.start - copy.len());
            copy.put_slice(&bytes(&self.buffers[buffer])[part]);
        }
        copy.put_bytes(0, range.len() - copy.len());
        copy.freeze()
    }

    /// Overwrites what lies from `start` on.
    pub(crate) fn write(&mut self, start: usize, payload: &[u8]) {
        let range = start..start + payload.len();
        for (buffer, part) in self.parts(&range).collect::<Vec<_>>() {
            let from = self.places[buffer].start + part.start - start;
            let source = &payload[from..from + part.len()];
            grow(&mut self.buffers[buffer], part.end, self.places[buffer].len());
            bytes_mut(&mut self.buffers[buffer])[part].copy_from_slice(source);
        }
    }

    /// Folds this range of all ranks, in their order, into this one's place. `leaves` has nothing for this rank.
    pub(crate) fn fold(&mut self, range: Range<usize>, leaves: &[Option<Bytes>], op: ReduceOp) {
        for (buffer, part) in self.parts(&range).collect::<Vec<_>>() {
            let from = self.places[buffer].start + part.start - range.start;
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
        let first = self.places.partition_point(|place| place.start <= range.start).saturating_sub(1);
        let last = self.places.partition_point(|place| place.start < range.end);
        (first..last.max(first)).filter_map(move |index| {
            let (start, length) = (self.places[index].start, self.places[index].len());
            let part = range.start.saturating_sub(start).min(length)..(range.end - start).min(length);
            (!part.is_empty()).then_some((index, part))
        })
    }
}

/// The same for the elements of a buffer, whichever type they have.
macro_rules! elements {
    ($buffer:expr, $values:ident => $body:expr) => {
        match $buffer {
            Buffer::F32($values) => $body,
            Buffer::F64($values) => $body,
            Buffer::U64($values) => $body,
            Buffer::Bytes($values) => $body,
        }
    };
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
    elements!(buffer, values => values.len())
}

fn element_size(buffer: &Buffer) -> usize {
    fn size<T>(_: &[T]) -> usize {
        size_of::<T>()
    }
    elements!(buffer, values => size(values))
}

/// A buffer of the same type, without elements.
pub(crate) fn empty(buffer: &Buffer) -> Buffer {
    match buffer {
        Buffer::F32(_) => Buffer::F32(Vec::new()),
        Buffer::F64(_) => Buffer::F64(Vec::new()),
        Buffer::U64(_) => Buffer::U64(Vec::new()),
        Buffer::Bytes(_) => Buffer::Bytes(Vec::new()),
    }
}

/// Makes room for the first `end` bytes of a buffer that is announced to have `whole` in the end.
fn grow(buffer: &mut Buffer, end: usize, whole: usize) {
    fn vector<T: Clone + Default>(values: &mut Vec<T>, end: usize, whole: usize) {
        let (end, whole) = (end / size_of::<T>(), whole / size_of::<T>());
        if end > values.capacity() {
            values.reserve_exact(whole.min(2 * end) - values.len());
        }
        if end > values.len() {
            values.resize(end, T::default());
        }
    }
    elements!(buffer, values => vector(values, end, whole));
}

fn bytes(buffer: &Buffer) -> &[u8] {
    elements!(buffer, values => bytemuck::cast_slice(values))
}

fn bytes_mut(buffer: &mut Buffer) -> &mut [u8] {
    elements!(buffer, values => bytemuck::cast_slice_mut(values))
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

    #[test]
    fn memory_grows_with_what_has_come_and_not_with_what_is_announced() {
        let mut flat = Flat::announced(vec![Buffer::F64(Vec::new())], &[1 << 29]).unwrap();
        for (chunk, start) in (0..4 << 20).step_by(1 << 20).enumerate() {
            flat.write(start, &[1; 1 << 20]);
            let Buffer::F64(values) = &flat.buffers[0] else { unreachable!("the type that was announced") };
            assert_eq!(values.len(), (chunk + 1) << 17);
            assert!(values.capacity() <= 2 * values.len(), "{}", values.capacity());
        }
        assert!(Flat::announced(vec![Buffer::F64(Vec::new())], &[u64::MAX]).is_none());
        assert!(Flat::announced(vec![Buffer::U64(Vec::new()); 2], &[1 << 60; 2]).is_none());
    }

    proptest! {
        #[test]
        fn what_is_read_in_pieces_and_written_elsewhere_is_the_same(
            buffers in prop::collection::vec(buffer(), 0..6),
            piece in 1usize..6,
        ) {
            let source = Flat::new(buffers);
            let lengths: Vec<u64> = source.buffers.iter().map(|buffer| length(buffer) as u64).collect();
            let mut copy = Flat::announced(source.buffers.iter().map(empty).collect(), &lengths).unwrap();
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
