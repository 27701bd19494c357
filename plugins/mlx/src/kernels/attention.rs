//! Softmax attention with grouped key/value heads, causal, in a window and by segment, without storing the probabilities.
//!
//! Keys and values are packed once into panels. Then each task takes a block of `WIDE` queries and holds the scores of up to
//! [`Cut::keys`] keys *transposed*, one key a row and one query a lane: maximum, exponential and sum are plain vector code, and
//! both products are `microkernel::outer`. Where a query sees more keys, what is there is rescaled to the new maximum. The
//! log-sum-exp of each query is all that the backward pass keeps (Dao et al., "FlashAttention", 2022).

mod backward;
mod cut;
mod mask;
mod pack;

pub use backward::{Gradients, backward};
pub use cut::Cut;
pub use mask::Mask;

use super::isa::{Simd, exp, larger, multiversion, tanh};
use super::microkernel::{PANEL, Row, WIDE, outer};
use super::token_losses::slope;
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
    /// Whether a score then becomes `cap · tanh(score / cap)`.
    pub soft_cap: Option<f32>,
    /// Which keys a query sees.
    pub mask: Mask<'a>,
    /// How the work is cut.
    pub cut: Cut,
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
    let mut query = vec![[0.0; WIDE]; width];
    let mut scores = vec![[0.0; WIDE]; panels.len().min(inputs.cut.keys / PANEL) * PANEL];
    let mut sums = Sums::new(width);
    for head in 0..heads {
        transpose_block(&inputs.query, batch, head, first..first + count, inputs.scale, &mut query);
        let source = batch * inputs.key.shape()[1] + head / inputs.group();
        sums.begin();
        for start in panels.clone().step_by(inputs.cut.keys / PANEL) {
            let panels = start..panels.end.min(start + inputs.cut.keys / PANEL);
            let scores = &mut scores[..panels.len() * PANEL];
            for (keys, scores) in keys.panels(source).skip(panels.start).zip(scores.as_chunks_mut::<PANEL>().0) {
                outer::<S, ROWS>(keys, &query, scores);
                if let Some(cap) = inputs.soft_cap {
                    soft_cap::<S>(scores, cap);
                }
            }
            inputs.mask.hide(batch, first, panels.start * PANEL, scores, f32::NEG_INFINITY);
            let factor = sums.softmax::<S>(scores);
            for (number, values) in values.panels(source).enumerate() {
                let mut product = [[0.0; WIDE]; PANEL];
                outer::<S, ROWS>(&values[panels.start * PANEL..panels.end * PANEL], scores, &mut product);
                sums.add(number, &product, &factor);
            }
            sums.is_empty = false;
        }
        for (feature, row) in sums.products[..width].iter().enumerate() {
            for i in 0..count {
                out[(i * heads + head) * width + feature] = row[i] / sums.sum[i];
            }
        }
        lse[head] = std::array::from_fn(|i| sums.max[i] + sums.sum[i].ln());
    }
}

/// What is known of a block of queries after some of their keys.
struct Sums {
    is_empty: bool,
    /// The largest score.
    max: Row,
    /// Σ e^(score − max).
    sum: Row,
    /// Σ e^(score − max) · value, a row for each feature.
    products: Vec<Row>,
}

impl Sums {
    fn new(width: usize) -> Self {
        let products = vec![[0.0; WIDE]; width.next_multiple_of(PANEL)];
        Self { is_empty: true, max: [0.0; WIDE], sum: [0.0; WIDE], products }
    }

    /// Before the first key.
    #[inline(always)]
    fn begin(&mut self) {
        (self.is_empty, self.max, self.sum) = (true, [f32::NEG_INFINITY; WIDE], [0.0; WIDE]);
    }

    /// Replaces further scores by e^(score − max) of the new maxima; returns what the earlier sums were multiplied by.
    #[inline(always)]
    fn softmax<S: Simd>(&mut self, scores: &mut [Row]) -> Row {
        let mut max = self.max;
        for row in scores.iter() {
            for i in 0..WIDE {
                max[i] = larger(max[i], row[i]);
            }
        }
        // Of hidden keys alone, the maximum is −Inf, and −Inf − −Inf would be NaN.
        let from = max.map(|max| if max == f32::NEG_INFINITY { 0.0 } else { max });
        let mut factor = [0.0; WIDE];
        for i in 0..WIDE {
            factor[i] = exp::<S>(self.max[i] - from[i]);
            self.sum[i] *= factor[i];
        }
        for row in scores.iter_mut() {
            for i in 0..WIDE {
                row[i] = exp::<S>(row[i] - from[i]);
                self.sum[i] += row[i];
            }
        }
        self.max = max;
        factor
    }

    /// Adds the products of a panel of features.
    #[inline(always)]
    fn add(&mut self, panel: usize, product: &[Row; PANEL], factor: &Row) {
        let products = &mut self.products.as_chunks_mut::<PANEL>().0[panel];
        if self.is_empty {
            *products = *product;
            return;
        }
        for (sum, product) in products.iter_mut().zip(product) {
            for i in 0..WIDE {
                sum[i] = sum[i] * factor[i] + product[i];
            }
        }
    }
}

/// Caps scores.
#[inline(always)]
fn soft_cap<S: Simd>(scores: &mut [Row; PANEL], cap: f32) {
    for score in scores.as_flattened_mut() {
        *score = cap * tanh::<S>(*score / cap);
    }
}

/// The derivatives of capped scores by the scores.
#[inline(always)]
fn slopes(scores: &[Row; PANEL], cap: f32) -> [Row; PANEL] {
    scores.map(|row| row.map(|score| slope(score, cap)))
}

#[cfg(test)]
pub(super) mod tests;
