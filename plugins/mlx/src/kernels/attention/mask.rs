//! Which keys a query may see.

use crate::kernels::microkernel::{Row, WIDE};

/// Causal order and segments. Queries are aligned with the *last* keys: query i is at the place of key i + keys − queries.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    /// A query sees no key behind its own place.
    pub causal: bool,
    /// Segment of each key place, [B, keys]: a query sees only keys of the segment at its own place. For packed sequences.
    pub segments: Option<&'a [i32]>,
    /// Number of queries, at most `keys`.
    pub queries: usize,
    /// Number of keys.
    pub keys: usize,
}

impl Mask<'_> {
    /// How many keys, from the first, queries before `end` see any of.
    pub(super) fn keys_seen(&self, end: usize) -> usize {
        if self.causal { self.keys.min(end + self.offset()) } else { self.keys }
    }

    /// Overwrites what is hidden in rows of keys from `first_key` on, lanes of queries from `first_query` on. Rows after the last key are padding, and hidden.
    #[inline(always)]
    pub(super) fn hide(&self, batch: usize, first_query: usize, first_key: usize, rows: &mut [Row], value: f32) {
        let all_see = match (self.segments, self.causal) {
            (Some(_), _) => 0,
            (None, true) => self.keys.min(first_query + self.offset() + 1),
            (None, false) => self.keys,
        };
        for key in first_key.max(all_see)..first_key + rows.len() {
            let row = &mut rows[key - first_key];
            for (i, lane) in row.iter_mut().enumerate().take(WIDE) {
                if !self.sees(batch, first_query + i, key) {
                    *lane = value;
                }
            }
        }
    }

    fn sees(&self, batch: usize, query: usize, key: usize) -> bool {
        let place = query + self.offset();
        if key >= self.keys || (self.causal && key > place) {
            return false;
        }
        // Lanes after the last query are padding: what they see does not matter, as long as it is something.
        let Some(segments) = self.segments.filter(|_| place < self.keys) else { return true };
        segments[batch * self.keys + key] == segments[batch * self.keys + place]
    }

    fn offset(&self) -> usize {
        self.keys - self.queries
    }
}
