//! Which keys a query may see.

use std::ops::Range;

use crate::kernels::microkernel::{PANEL, Row, WIDE};

/// Causal order, a window and segments. Queries are aligned with the *last* keys: query i is at the place of key i + keys − queries.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    /// A query sees no key behind its own place.
    pub causal: bool,
    /// With causal order: a query sees only so many keys, up to its own place.
    pub window: Option<usize>,
    /// Segment of each key place, [B, keys]: a query sees only keys of the segment at its own place. For packed sequences.
    pub segments: Option<&'a [i32]>,
    /// Number of queries, at most `keys`.
    pub queries: usize,
    /// Number of keys.
    pub keys: usize,
}

impl Mask<'_> {
    /// The panels of keys that the block of queries from `first_query` on sees any of. Packed rows skip the documents before.
    pub(super) fn panels(&self, batch: usize, first_query: usize) -> Range<usize> {
        let last = if self.causal { self.keys.min(first_query + WIDE + self.offset()) } else { self.keys };
        let first = self.segments.map_or(0, |segments| {
            let mut own = self.lane_segments(segments, batch, first_query).to_vec();
            own.dedup();
            let segments = &segments[batch * self.keys..][..self.keys];
            segments.iter().position(|segment| own.contains(segment)).unwrap_or(0)
        });
        let in_window = self.window.map_or(0, |window| (first_query + self.offset() + 1).saturating_sub(window));
        first.max(in_window) / PANEL..last.div_ceil(PANEL)
    }

    /// Overwrites what is hidden in rows of keys from `first_key` on, lanes of queries from `first_query` on.
    /// Rows after the last key are padding, and hidden.
    #[inline(always)]
    pub(super) fn hide(&self, batch: usize, first_query: usize, first_key: usize, rows: &mut [Row], value: f32) {
        if let Some(segments) = self.segments {
            let own = self.lane_segments(segments, batch, first_query);
            for (row, segment) in rows.iter_mut().zip(&segments[batch * self.keys..][first_key..self.keys]) {
                for i in 0..WIDE {
                    row[i] = if own[i] == *segment { row[i] } else { value };
                }
            }
        }
        let first_place = first_query + self.offset();
        if let Some(window) = self.window {
            let all_see = (first_place + WIDE).saturating_sub(window);
            for (key, row) in (first_key..all_see).zip(rows.iter_mut()) {
                for (i, lane) in row.iter_mut().enumerate() {
                    // Lanes after the last query see what that one sees: they are padding, and no NaN.
                    if key + window <= (first_place + i).min(self.keys - 1) {
                        *lane = value;
                    }
                }
            }
        }
        let all_see = if self.causal { self.keys.min(first_place + 1) } else { self.keys };
        for key in first_key.max(all_see)..first_key + rows.len() {
            for (i, lane) in rows[key - first_key].iter_mut().enumerate() {
                if key >= self.keys || key > first_place + i {
                    *lane = value;
                }
            }
        }
    }

    /// The segment of each lane's place. Lanes after the last query are padding: they take part in the last one's.
    #[inline(always)]
    fn lane_segments(&self, segments: &[i32], batch: usize, first_query: usize) -> [i32; WIDE] {
        let places = &segments[batch * self.keys..][..self.keys];
        std::array::from_fn(|i| places[(first_query + i + self.offset()).min(self.keys - 1)])
    }

    fn offset(&self) -> usize {
        self.keys - self.queries
    }
}
