//! What a rank has called, as it stands in its segment: the fields of a chunk of the contract that describe a call, and
//! which of its buffers lie in regions.
//!
//! | words | what |
//! |---|---|
//! | 1 | bytes of the message |
//! | 1 | number of buffers |
//! | one per buffer | where the buffer lies in the segment; all bits set where it does not |
//! | the rest | the message |

use std::io;

use prost::Message;

use super::segment::{Own, Segment, call};
use crate::call::Called;
use crate::wire::Chunk;

const WORD: usize = size_of::<u64>();

/// The place of a buffer that is not in the segment.
const NOWHERE: u64 = u64::MAX;

/// What a rank has called, and where its buffers are.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Description {
    message: Vec<u8>,
    /// For each buffer its offset in the segment, if it lies there.
    pub(crate) places: Vec<Option<usize>>,
}

impl Description {
    pub(crate) fn new(called: &Called, places: Vec<Option<usize>>) -> Self {
        let (element_types, lengths) = (called.element_types.clone(), called.lengths.clone());
        let chunk = Chunk { call: Some(called.call), element_types, lengths, ..Chunk::default() };
        Self { message: chunk.encode_to_vec(), places }
    }

    /// Writes it into this rank's segment, for the call with this number.
    ///
    /// # Errors
    /// The system has no memory for an unusually long one.
    pub(crate) fn write(&self, own: &Own, sequence: u64) -> io::Result<()> {
        let (start, places) = (call(sequence).start, self.places.len());
        let range = start..start + (2 + places) * WORD + self.message.len();
        if range.end > call(sequence).end {
            return Err(io::Error::other("the description of the call is too long"));
        }
        own.allocate_call(range.clone())?;
        // SAFETY: it has memory now. Others read it between the time when this rank says that it has joined and the time
        // when they join the next call, and this rank overwrites it in the call after that, which begins later.
        let (words, message) = unsafe { own.segment.bytes_mut(range) }.split_at_mut((2 + places) * WORD);
        let head = [self.message.len() as u64, places as u64].into_iter();
        let places = self.places.iter().map(|place| place.map_or(NOWHERE, |offset| offset as u64));
        for (word, value) in words.chunks_exact_mut(WORD).zip(head.chain(places)) {
            word.copy_from_slice(&value.to_ne_bytes());
        }
        message.copy_from_slice(&self.message);
        Ok(())
    }

    /// Reads that of another rank, which has joined the call. `None` where it is none.
    pub(crate) fn read(segment: &Segment, sequence: u64) -> Option<Self> {
        let call = call(sequence);
        let bytes = |start: usize, length: usize| {
            let start = call.start.checked_add(start)?;
            let end = start.checked_add(length).filter(|end| *end <= call.end)?;
            // SAFETY: the rank has joined, so it has memory for what it has written, and does not change it: see `write`.
            Some(unsafe { segment.bytes(start..end) })
        };
        let word = |bytes: &[u8]| bytes.try_into().map_or(NOWHERE, u64::from_ne_bytes);
        let [length, places] = [0, WORD].map(|at| bytes(at, WORD).map_or(NOWHERE, word) as usize);
        let words = bytes(2 * WORD, places.checked_mul(WORD)?)?;
        let places: Vec<_> =
            words.chunks_exact(WORD).map(|place| Some(word(place)).filter(|place| *place != NOWHERE)).collect();
        let message = bytes((2 + places.len()) * WORD, length)?.to_vec();
        Some(Self { message, places: places.into_iter().map(|place| place.map(|offset| offset as usize)).collect() })
    }

    /// Whether both have called the same, wherever the buffers are.
    pub(crate) fn is_same_call(&self, other: &Self) -> bool {
        self.message == other.message
    }

    /// The call as a chunk has it. `None` where it is none.
    pub(crate) fn chunk(&self) -> Option<Chunk> {
        Chunk::decode(self.message.as_slice()).ok()
    }

    /// Whether the same buffers of both lie in their segments.
    pub(crate) fn has_same_places(&self, other: &Self) -> bool {
        self.places.len() == other.places.len()
            && self.places.iter().zip(&other.places).all(|(own, other)| own.is_some() == other.is_some())
    }
}
