//! How the work of attention is cut: a function of the shape alone, and so are the bits.

use crate::kernels::microkernel::PANEL;

/// How the work is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Keys at a time: their scores, and in the pass backwards the sums of their gradients, stay in the cache of a core. A
    /// multiple of 8.
    pub keys: usize,
    /// Into how many parts the queries of one key/value head are cut in the pass backwards, each with sums of its own.
    pub parts: usize,
}

impl Cut {
    /// For so many heads of this width, over the rows of a batch, with so many queries each.
    pub fn of(heads: usize, queries: usize, width: usize) -> Self {
        let keys = (1 << 16) / width.next_power_of_two().clamp(32, 256);
        // Few heads would keep few cores busy, which matters where rows are long.
        let parts = if queries > 2048 { 4usize.div_ceil(heads.max(1)) } else { 1 };
        Self { keys: keys.next_multiple_of(PANEL), parts }
    }
}
