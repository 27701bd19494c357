//! The buffers of other ranks that `all_gather` collects.

use std::ops::Range;

use bytemuck::cast_slice_mut;
use mdt_plugin_api::{Buffer, Dtype, Region, Result};

use crate::memory::padded;

/// What `all_gather` has of each other rank.
pub(super) struct Gathered {
    dtype: Dtype,
    others: Vec<Option<Incoming>>,
}

/// A buffer of another rank, of which this one knew neither length nor content.
struct Incoming {
    bytes: usize,
    /// What has come. Words, so that it is aligned for every type.
    words: Vec<u64>,
}

impl Gathered {
    pub(super) fn new(dtype: Dtype, ranks: usize) -> Self {
        Self { dtype, others: (0..ranks).map(|_| None).collect() }
    }

    /// Makes place for a buffer of so many elements; gives the bytes that come. `None` where this machine has not so much
    /// memory. Memory is used as data comes.
    pub(super) fn begin(&mut self, rank: usize, lengths: &[u64]) -> Option<usize> {
        let bytes = usize::try_from(*lengths.first()?).ok()?.checked_mul(self.dtype.size())?;
        let mut words = Vec::new();
        words.try_reserve_exact(bytes.div_ceil(size_of::<u64>())).ok()?;
        self.others[rank] = Some(Incoming { bytes, words });
        Some(padded(bytes))
    }

    /// Where this range of a rank's buffer goes.
    pub(super) fn place(&mut self, rank: usize, range: Range<usize>) -> &mut [u8] {
        let Some(Incoming { words, .. }) = &mut self.others[rank] else { return &mut [] };
        let end = range.end.div_ceil(size_of::<u64>());
        if words.len() < end {
            words.resize(end, 0);
        }
        &mut cast_slice_mut(words)[range]
    }

    /// The buffers of all ranks, with this rank's own.
    pub(super) fn finish(self, rank: usize, mut own: Vec<Buffer>) -> Result<Vec<Buffer>> {
        let dtype = self.dtype;
        let buffers = self.others.into_iter().enumerate().map(|(other, incoming)| match incoming {
            Some(Incoming { bytes, words }) => Some(Region::of(words).buffer_of(dtype, 0..bytes)),
            None if other == rank => own.pop().map(Ok),
            None => None,
        });
        buffers.flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_by_what_has_come_and_not_by_what_is_announced() {
        let mut gathered = Gathered::new(Dtype::F64, 2);
        assert_eq!(gathered.begin(1, &[1 << 17]), Some(1 << 20));
        gathered.place(1, 0..4096).fill(1);
        assert_eq!(gathered.others[1].as_ref().unwrap().words.len(), 512);
        for absurd in [u64::MAX, 1 << 60, 1 << 58] {
            assert_eq!(gathered.begin(1, &[absurd]), None, "{absurd}");
        }
    }
}
