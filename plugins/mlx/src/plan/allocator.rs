//! MLX's allocator on a CPU, with sizes in the place of memory (`backend/no_gpu/allocator.cpp`, `backend/common/buffer_cache.h`).

use std::collections::BTreeMap;

/// A cached buffer that is larger than twice the size that is needed, or than two pages more, is not taken.
const TWO_PAGES: u64 = 2 * 4096;

/// Buffers in use and kept for reuse.
#[derive(Debug, Default)]
pub struct Allocator {
    active: u64,
    peak_active: u64,
    /// How many buffers of each size are kept.
    kept: BTreeMap<u64, u64>,
    kept_bytes: u64,
    peak: u64,
}

impl Allocator {
    /// Takes memory: a kept buffer or a new one. Returns the size of the buffer.
    pub fn take(&mut self, size: u64) -> u64 {
        let fitting = self.kept.range(size..(2 * size).min(size + TWO_PAGES)).next().map(|(&size, _)| size);
        let size = match fitting {
            Some(kept) => {
                self.forget(kept);
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
        *self.kept.entry(size).or_default() += 1;
    }

    /// The end of an evaluation: kept buffers that outweigh all that was ever in use by half are freed, see
    /// [`crate::fused::trim_buffers`]. `resident` is what is in use beside what was planned.
    pub fn trim(&mut self, resident: u64) {
        if self.kept_bytes > (self.peak_active + resident) / 2 * 3 {
            self.kept.clear();
            self.kept_bytes = 0;
        }
    }

    /// The most bytes that were in use or kept at a time.
    pub fn peak(&self) -> u64 {
        self.peak
    }

    fn forget(&mut self, size: u64) {
        self.kept_bytes -= size;
        if let Some(count) = self.kept.get_mut(&size) {
            *count -= 1;
            if *count == 0 {
                self.kept.remove(&size);
            }
        }
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
    fn buffers_of_sizes_that_no_longer_come_are_freed() {
        let mut allocator = Allocator::default();
        for size in [4 << 20, 6 << 20, 8 << 20] {
            let buffer = allocator.take(size);
            allocator.give(buffer);
        }
        assert_eq!(allocator.peak(), 18 << 20);
        allocator.trim(0);
        allocator.take(1 << 20);
        assert_eq!(allocator.peak(), 18 << 20, "what was kept is free");
    }
}
