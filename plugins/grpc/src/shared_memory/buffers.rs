//! Buffers as one range of bytes, out of which slices and steps are cut.
//!
//! They lie one after the other, each beginning at a multiple of [`ALIGNMENT`]. Ranges are cut at multiples of it too, or
//! where the elements of a single buffer are divided among ranks, so that none divides an element.

use std::ops::Range;

use mdt_plugin_api::Buffer;

/// Where a buffer may begin.
const ALIGNMENT: usize = 8;

/// Buffers as one range of bytes.
#[derive(Default)]
pub(crate) struct Buffers {
    buffers: Vec<Buffer>,
    /// Where each lies.
    places: Vec<Range<usize>>,
    length: usize,
}

impl FromIterator<Buffer> for Buffers {
    fn from_iter<I: IntoIterator<Item = Buffer>>(buffers: I) -> Self {
        let mut all = Self::default();
        for buffer in buffers {
            let end = all.length + buffer.bytes().len();
            all.places.push(all.length..end);
            all.length = end.next_multiple_of(ALIGNMENT);
            all.buffers.push(buffer);
        }
        all
    }
}

impl Buffers {
    /// Bytes of all buffers and of the gaps between them.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// Bytes up to the end of the last buffer.
    pub(crate) fn bytes(&self) -> usize {
        self.places.last().map_or(0, |place| place.end)
    }

    pub(crate) fn into_buffers(self) -> Vec<Buffer> {
        self.buffers
    }

    pub(crate) fn get(&mut self, buffer: usize) -> &mut Buffer {
        &mut self.buffers[buffer]
    }

    /// Copies a range into memory of its length. What lies in gaps stays as it was.
    pub(crate) fn read(&self, range: Range<usize>, copy: &mut [u8]) {
        for Part { buffer, bytes, from } in self.parts(range) {
            copy[from..from + bytes.len()].copy_from_slice(&self.buffers[buffer].bytes()[bytes]);
        }
    }

    /// Overwrites a range with what lies in memory of its length.
    pub(crate) fn write(&mut self, range: Range<usize>, source: &[u8]) {
        for Part { buffer, bytes, from } in self.parts(range).collect::<Vec<_>>() {
            let source = &source[from..from + bytes.len()];
            self.buffers[buffer].bytes_mut()[bytes].copy_from_slice(source);
        }
    }

    /// The buffers that overlap a range, each with the part of its own bytes that does.
    pub(crate) fn parts(&self, range: Range<usize>) -> impl Iterator<Item = Part> {
        let first = self.places.partition_point(|place| place.end <= range.start);
        self.places[first..].iter().enumerate().map_while(move |(index, place)| {
            let (start, end) = (place.start.max(range.start), place.end.min(range.end));
            (place.start < range.end).then(|| Part {
                buffer: first + index,
                bytes: start - place.start..end.max(start) - place.start,
                from: start - range.start,
            })
        })
    }
}

/// What a buffer has of a range.
pub(crate) struct Part {
    pub(crate) buffer: usize,
    /// Bytes of the buffer.
    pub(crate) bytes: Range<usize>,
    /// Where they begin, counted from the beginning of the range.
    pub(crate) from: usize,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_read_in_pieces_and_written_elsewhere_is_the_same(
            lengths in prop::collection::vec(0usize..40, 0..6),
            piece in 1usize..6,
        ) {
            let bytes = |length: &usize| Buffer::from((0..*length as u8).collect::<Vec<_>>());
            let source: Buffers = lengths.iter().map(bytes).collect();
            let mut copy: Buffers = lengths.iter().map(|&length| Buffer::from(vec![0u8; length])).collect();
            prop_assert_eq!(copy.len(), source.len());
            for start in (0..source.len()).step_by(piece * ALIGNMENT) {
                let range = start..source.len().min(start + piece * ALIGNMENT);
                let mut payload = vec![0; range.len()];
                source.read(range.clone(), &mut payload);
                copy.write(range, &payload);
            }
            prop_assert_eq!(copy.into_buffers(), source.into_buffers());
        }
    }
}
