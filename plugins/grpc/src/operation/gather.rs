//! `all_gather`, `broadcast` and `barrier`: data is moved and not reduced.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use mdt_plugin_api::{Buffer, Dtype, Region, Result};

use super::Work;
use crate::call::Kind;
use crate::flat::{Flat, padded};

/// A collective in progress that folds nothing.
pub(super) struct Gather {
    rank: u32,
    kind: Kind,
    own: Flat,
    /// What `all_gather` has of each other rank.
    others: Vec<Option<Arriving>>,
}

impl Gather {
    pub(super) fn new(rank: u32, world_size: u32, buffers: Vec<Buffer>, kind: Kind) -> Self {
        let others = (0..world_size).map(|_| None).collect();
        Self { rank, kind, own: Flat::new(buffers), others }
    }

    /// Whether a rank gives its buffers to the others.
    fn gives(&self, rank: u32) -> bool {
        match self.kind {
            Kind::AllGather => true,
            Kind::Broadcast { root } => rank == root,
            Kind::AllReduce(_) | Kind::ReduceScatter(_) | Kind::Barrier => false,
        }
    }
}

impl Work for Gather {
    fn contribution(&self, _: u32) -> Range<usize> {
        if self.gives(self.rank) { 0..self.own.len() } else { 0..0 }
    }

    fn expected(&mut self, rank: u32, lengths: &[u64]) -> Option<Range<usize>> {
        if !self.gives(rank) {
            return Some(0..0);
        }
        if self.kind != Kind::AllGather {
            return Some(0..self.own.len());
        }
        let theirs = &mut self.others[rank as usize];
        if theirs.is_none() {
            let dtype = self.own.buffers().first().map_or(Dtype::U8, Buffer::dtype);
            *theirs = Some(Arriving::new(dtype, *lengths.first()?)?);
        }
        theirs.as_ref().map(|theirs| 0..padded(theirs.bytes))
    }

    fn contributed(&mut self, rank: u32, start: usize, payload: Bytes) {
        match &mut self.others[rank as usize] {
            Some(theirs) => theirs.append(&payload),
            None => self.own.write(start, &payload),
        }
    }

    fn read(&self, range: Range<usize>, copy: &mut BytesMut) {
        self.own.read(range, copy);
    }

    fn finish(self: Box<Self>) -> Result<Vec<Buffer>> {
        let own = self.own.into_buffers();
        if self.kind != Kind::AllGather {
            return Ok(own);
        }
        let mut own = own.into_iter();
        let buffers = self.others.into_iter().map(|theirs| theirs.map(Arriving::buffer).or_else(|| own.next().map(Ok)));
        buffers.flatten().collect()
    }
}

/// A buffer of another rank, of which this one knew neither length nor content.
struct Arriving {
    dtype: Dtype,
    bytes: usize,
    /// What has come. Words, so that it is aligned for every type.
    words: Vec<u64>,
}

impl Arriving {
    /// A buffer of so many elements. `None` where no machine has so much memory.
    fn new(dtype: Dtype, elements: u64) -> Option<Self> {
        let bytes = usize::try_from(elements).ok()?.checked_mul(dtype.size())?;
        (bytes <= isize::MAX as usize - size_of::<u64>()).then_some(Self { dtype, bytes, words: Vec::new() })
    }

    /// Adds the next chunk, whose length is a multiple of 8. Memory grows with what has come and not with what is
    /// announced.
    fn append(&mut self, payload: &[u8]) {
        let words = self.words.len() + payload.len() / 8;
        if words > self.words.capacity() {
            let whole = self.bytes.div_ceil(8).max(words);
            self.words.reserve_exact(whole.min(2 * words) - self.words.len());
        }
        let (chunks, _) = payload.as_chunks();
        self.words.extend(chunks.iter().map(|&word| u64::from_ne_bytes(word)));
    }

    fn buffer(self) -> Result<Buffer> {
        Region::of(self.words).buffer_of(self.dtype, 0..self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_grows_with_what_has_come_and_not_with_what_is_announced() {
        let mut arriving = Arriving::new(Dtype::F64, 1 << 29).unwrap();
        for chunk in 1..=4 {
            arriving.append(&[1; 1 << 20]);
            assert_eq!(arriving.words.len(), chunk << 17);
            assert!(arriving.words.capacity() <= 2 * arriving.words.len(), "{}", arriving.words.capacity());
        }
        assert!(Arriving::new(Dtype::F64, u64::MAX).is_none());
        assert!(Arriving::new(Dtype::U64, 1 << 60).is_none());
    }
}
