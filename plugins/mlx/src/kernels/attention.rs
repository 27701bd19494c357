//! Softmax attention with grouped key/value heads, causal and by segment, without storing the probabilities.
//!
//! Keys and values are packed once into panels. Then each task takes a block of `WIDE` queries and holds the scores of all keys it
//! may see *transposed*, one key a row and one query a lane: maximum, exponential and sum are plain vector code, and both
//! products are `microkernel::outer`. The exact softmax needs no running rescale, and its memory is keys · 32 floats a thread.
//! The log-sum-exp of each query is all that the backward pass keeps (Dao et al., "FlashAttention", 2022).

mod backward;
mod mask;
mod pack;

pub use backward::{Gradients, backward};
pub use mask::Mask;

use super::isa::{Simd, exp, larger, multiversion};
use super::microkernel::{PANEL, Row, WIDE, outer};
use super::{View4, pool};
use pack::{Packed, transpose_block};

/// What attends to what. Shapes: `query` [B, H, Tq, D]; `key` and `value` [B, Hkv, Tk, D] with H a multiple of Hkv.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// Queries.
    pub query: View4<'a>,
    /// Keys; head h of the queries reads head h / (H / Hkv).
    pub key: View4<'a>,
    /// Values.
    pub value: View4<'a>,
    /// Factor on the scores before the softmax.
    pub scale: f32,
    /// Which keys a query sees.
    pub mask: Mask<'a>,
}

impl Inputs<'_> {
    fn queries(&self) -> usize {
        self.query.shape()[2]
    }

    fn group(&self) -> usize {
        self.query.shape()[1] / self.key.shape()[1]
    }
}

/// Number of floats of the log-sum-exp that [`forward`] leaves for [`backward`].
pub fn lse_len(batch: usize, heads: usize, queries: usize) -> usize {
    batch * queries.div_ceil(WIDE) * heads * WIDE
}

/// Writes softmax(scale · Q Kᵀ + mask) V, laid out as [B, Tq, H, D], and the log-sum-exp of each query (an opaque layout of [`lse_len`]).
pub fn forward(inputs: Inputs<'_>, out: &mut [f32], lse: &mut [f32]) {
    let [batch, heads, queries, width] = inputs.query.shape();
    if out.is_empty() {
        return;
    }
    let keys = Packed::by_position(inputs.key);
    let values = Packed::by_feature(inputs.value);
    let blocks = queries.div_ceil(WIDE);
    let lse = lse.as_chunks_mut::<WIDE>().0;
    let rows = out.chunks_mut(queries * heads * width).flat_map(|rows| rows.chunks_mut(WIDE * heads * width));
    let mut tasks: Vec<_> = rows.zip(lse.chunks_mut(heads)).enumerate().collect();
    debug_assert_eq!(tasks.len(), batch * blocks);
    // Late blocks see more keys: start with the long tasks.
    tasks.sort_by_key(|(number, _)| std::cmp::Reverse(number % blocks));
    pool::run(tasks, |(number, (out, lse))| {
        forward_block(&inputs, &keys, &values, number / blocks, number % blocks * WIDE, out, lse);
    });
}

multiversion! {
    fn forward_block(inputs: &Inputs<'_>, keys: &Packed, values: &Packed, batch: usize, first: usize, out: &mut [f32], lse: &mut [Row]) = forward_body;
}

/// All heads of one block of queries.
#[inline(always)]
fn forward_body<S: Simd, const ROWS: usize>(
    inputs: &Inputs<'_>,
    keys: &Packed,
    values: &Packed,
    batch: usize,
    first: usize,
    out: &mut [f32],
    lse: &mut [Row],
) {
    let [_, heads, _, width] = inputs.query.shape();
    let count = out.len() / (heads * width);
    let panels = inputs.mask.panels(batch, first);
    let keys_in_sight = panels.start * PANEL..panels.end * PANEL;
    let mut query = vec![[0.0; WIDE]; width];
    let mut scores = vec![[0.0; WIDE]; keys_in_sight.len()];
    for head in 0..heads {
        transpose_block(&inputs.query, batch, head, first..first + count, inputs.scale, &mut query);
        let source = batch * inputs.key.shape()[1] + head / inputs.group();
        for (keys, scores) in keys.panels(source).skip(panels.start).zip(scores.as_chunks_mut::<PANEL>().0) {
            outer::<S, ROWS>(keys, &query, scores);
        }
        inputs.mask.hide(batch, first, keys_in_sight.start, &mut scores, f32::NEG_INFINITY);
        let (max, sum) = softmax::<S>(&mut scores);
        let mut product = [[0.0; WIDE]; PANEL];
        for (number, values) in values.panels(source).enumerate() {
            outer::<S, ROWS>(&values[keys_in_sight.clone()], &scores, &mut product);
            for (feature, row) in (number * PANEL..width).zip(&product) {
                for i in 0..count {
                    out[(i * heads + head) * width + feature] = row[i] / sum[i];
                }
            }
        }
        for i in 0..WIDE {
            lse[head][i] = max[i] + sum[i].ln();
        }
    }
}

/// Replaces each score by e^(score − max of its lane); returns the maxima and the sums.
#[inline(always)]
fn softmax<S: Simd>(scores: &mut [Row]) -> (Row, Row) {
    let mut max = [f32::NEG_INFINITY; WIDE];
    for row in scores.iter() {
        for i in 0..WIDE {
            max[i] = larger(max[i], row[i]);
        }
    }
    let mut sum = [0.0; WIDE];
    for row in scores.iter_mut() {
        for i in 0..WIDE {
            row[i] = exp::<S>(row[i] - max[i]);
            sum[i] += row[i];
        }
    }
    (max, sum)
}

#[cfg(test)]
pub(super) mod tests;
