//! MLX's allocator on a CPU, with sizes in the place of memory (`backend/no_gpu/allocator.cpp`, `backend/common/buffer_cache.h`).

use std::collections::{BTreeMap, BTreeSet};

/// A cached buffer that is larger than twice the size that is needed, or than two pages more, is not taken.
const TWO_PAGES: u64 = 2 * 4096;

/// Buffers in use and kept for reuse.
#[derive(Debug, Default)]
pub struct Allocator {
    active: u64,
    peak_active: u64,
    /// Sizes of kept buffers, each with a number that grows with the time when it was given back.
    by_size: BTreeSet<(u64, u64)>,
    /// The same by that number.
    by_age: BTreeMap<u64, u64>,
    given: u64,
    kept_bytes: u64,
    peak: u64,
    /// Bytes that are in use beside what is planned.
    resident: u64,
}

impl Allocator {
    /// Takes memory: a kept buffer or a new one. Returns the size of the buffer.
    pub fn take(&mut self, size: u64) -> u64 {
        let fitting = self.by_size.range((size, 0)..((2 * size).min(size + TWO_PAGES), 0)).next().copied();
        let size = match fitting {
            Some((kept, number)) => {
                self.forget(kept, number);
                kept
            }
            None => size,
        };
        self.active += size;
        self.peak_active = self.peak_active.max(self.active);
        self.peak = self.peak.max(self.active + self.kept_bytes);
        size
    }

    /// Gives a buffer back.
    pub fn give(&mut self, size: u64) {
        self.active -= size;
        self.kept_bytes += size;
        self.given += 1;
        self.by_size.insert((size, self.given));
        self.by_age.insert(self.given, size);
    }

    /// Bytes that are in use beside what is planned, as of now; those of earlier evaluations are, if they were more.
    pub fn beside(&mut self, resident: u64) {
        self.resident = self.resident.max(resident);
    }

    /// Whether buffers in use and kept are so much that [`Self::free_oldest`] frees some, as `bound_buffers` does in
    /// `native/primitives/memory.cpp`.
    pub fn is_beyond_bound(&self) -> bool {
        self.resident + self.active + self.kept_bytes > self.most_used() / 2 * 3
    }

    /// Frees the kept buffers that nobody has taken for longest.
    pub fn free_oldest(&mut self) {
        let limit = (self.most_used() / 4 * 5).saturating_sub(self.resident + self.active);
        let surplus = self.kept_bytes.saturating_sub(limit);
        // MLX frees all at once if that is nearly the same.
        let limit = if 10 * surplus >= 9 * self.kept_bytes { 0 } else { limit };
        while self.kept_bytes > limit
            && let Some((&number, &size)) = self.by_age.first_key_value()
        {
            self.forget(size, number);
        }
    }

    /// The most bytes that were in use or kept at a time.
    pub fn peak(&self) -> u64 {
        self.peak
    }

    /// The most bytes in use at a time, with a sixteenth for those that MLX gives back somewhat later than this: on small models up to
    /// a tenth more is in use.
    fn most_used(&self) -> u64 {
        (self.resident + self.peak_active) / 16 * 17
    }

    fn forget(&mut self, size: u64, number: u64) {
        self.kept_bytes -= size;
        self.by_size.remove(&(size, number));
        self.by_age.remove(&number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_buffer_is_taken_again_where_it_is_not_much_too_large() {
        let mut allocator = Allocator::default();
        for size in [100_000, 108_191, 50_000] {
            let buffer = allocator.take(size);
            allocator.give(buffer);
        }
        assert_eq!(allocator.take(100_000), 100_000);
        assert_eq!(allocator.take(100_000), 108_191);
        assert_eq!(allocator.take(100_000), 100_000, "a new one: the last one that is kept is too small");
        assert_eq!(allocator.peak(), 100_000 + 108_191 + 50_000 + 100_000);
    }

    #[test]
    fn the_oldest_buffers_are_freed_once_they_and_those_in_use_outweigh_all_that_was_used_by_half() {
        let mut allocator = Allocator::default();
        allocator.beside(8 << 20);
        for size in [6 << 20, 4 << 20, 8 << 20] {
            let buffer = allocator.take(size);
            allocator.give(buffer);
        }
        assert_eq!((allocator.peak(), allocator.is_beyond_bound()), (18 << 20, true));
        allocator.free_oldest();
        assert!(!allocator.is_beyond_bound());
        assert_eq!(allocator.kept_bytes, 12 << 20, "the oldest was freed");
        assert_eq!([4 << 20, 8 << 20].map(|size| allocator.take(size)), [4 << 20, 8 << 20]);
        assert_eq!((allocator.kept_bytes, allocator.peak()), (0, 18 << 20), "the others are taken again");
    }
}
