//! The gradients of attention: scores are computed again from the log-sum-exp, a panel of keys at a time.

use super::pack::Packed;
use super::{Inputs, PANEL, Row, WIDE};
use crate::kernels::isa::{Simd, exp, multiversion};
use crate::kernels::microkernel::{inner, outer};
use crate::kernels::{View4, pool};

/// Where the gradients go: laid out as [B, T, heads, D] each.
pub struct Gradients<'a> {
    /// Of the queries, [B, Tq, H, D].
    pub query: &'a mut [f32],
    /// Of the keys, [B, Tk, Hkv, D].
    pub key: &'a mut [f32],
    /// Of the values, [B, Tk, Hkv, D].
    pub value: &'a mut [f32],
}

/// Gradients for `cotangent` [B, H, Tq, D], given what [`super::forward`] wrote: `out` (as [B, H, Tq, D]) and `lse`.
///
/// A task is one key/value head of one batch row, with all query heads that read it: so the sums over queries need no lock.
pub fn backward(inputs: Inputs<'_>, out: View4<'_>, lse: &[f32], cotangent: View4<'_>, gradients: Gradients<'_>) {
    let [batch, heads, _, width] = inputs.query.shape();
    let kv_heads = inputs.key.shape()[1];
    if gradients.query.is_empty() {
        gradients.key.fill(0.0);
        gradients.value.fill(0.0);
        return;
    }
    let saved = Saved {
        inputs,
        out,
        cotangent,
        lse: lse.as_chunks::<WIDE>().0,
        keys: Packed::by_position(inputs.key),
        values: Packed::by_position(inputs.value),
        keys_by_feature: Packed::by_feature(inputs.key),
    };
    // Rows of one head are not next to each other in memory, so each task gets them as a list.
    let mut tasks: Vec<(usize, [Vec<&mut [f32]>; 3])> =
        (0..batch * kv_heads).map(|i| (i, Default::default())).collect();
    for (which, gradient, heads) in
        [(0, gradients.query, heads), (1, gradients.key, kv_heads), (2, gradients.value, kv_heads)]
    {
        let positions = gradient.len() / (batch * heads * width);
        for (number, row) in gradient.chunks_exact_mut(width).enumerate() {
            let (batch, head) = (number / (positions * heads), number % heads);
            tasks[batch * kv_heads + head * kv_heads / heads].1[which].push(row);
        }
    }
    pool::run(tasks, |(source, [mut query, mut key, mut value])| {
        backward_head(&saved, source, &mut query, &mut key, &mut value);
    });
}

/// All that the tasks read.
struct Saved<'a> {
    inputs: Inputs<'a>,
    out: View4<'a>,
    cotangent: View4<'a>,
    lse: &'a [Row],
    keys: Packed,
    values: Packed,
    keys_by_feature: Packed,
}

multiversion! {
    fn backward_head(saved: &Saved<'_>, source: usize, query: &mut [&mut [f32]], key: &mut [&mut [f32]], value: &mut [&mut [f32]]) = backward_body;
}

#[inline(always)]
fn backward_body<S: Simd, const ROWS: usize>(
    saved: &Saved<'_>,
    source: usize,
    grad_query: &mut [&mut [f32]],
    grad_key: &mut [&mut [f32]],
    grad_value: &mut [&mut [f32]],
) {
    let inputs = &saved.inputs;
    let [_, heads, queries, width] = inputs.query.shape();
    let [_, kv_heads, keys, _] = inputs.key.shape();
    let (batch, group) = (source / kv_heads, inputs.group());
    let mut sums = KeySums::new(keys, width);
    let mut block = Block::new(width);
    let mut grad_scores = vec![[0.0; WIDE]; keys.next_multiple_of(PANEL)];
    for first in (0..queries).step_by(WIDE) {
        let panels = inputs.mask.panels(batch, first);
        let keys_in_sight = panels.start * PANEL..panels.end * PANEL;
        for member in 0..group {
            let head = source % kv_heads * group + member;
            block.load(saved, batch, head, first);
            let lse = &saved.lse[(batch * queries.div_ceil(WIDE) + first / WIDE) * heads + head];
            let operands =
                saved.keys.panels(source).zip(saved.values.panels(source)).zip(grad_scores.as_chunks_mut::<PANEL>().0);
            for (number, ((keys, values), grad_scores)) in operands.enumerate().take(panels.end).skip(panels.start) {
                let mut probabilities = [[0.0; WIDE]; PANEL];
                outer::<S, ROWS>(keys, &block.query_t, &mut probabilities);
                outer::<S, ROWS>(values, &block.cotangent_t, grad_scores);
                for row in &mut probabilities {
                    for i in 0..WIDE {
                        row[i] = exp::<S>(row[i] - lse[i]);
                    }
                }
                inputs.mask.hide(batch, first, number * PANEL, &mut probabilities, 0.0);
                for (grad, probability) in grad_scores.iter_mut().zip(&probabilities) {
                    for i in 0..WIDE {
                        grad[i] = probability[i] * (grad[i] - block.delta[i]) * inputs.scale;
                    }
                }
                for (chunk, (query, cotangent)) in block.query.iter().zip(&block.cotangent).enumerate() {
                    inner::<S, ROWS>(grad_scores, query, sums.key(chunk, number));
                    inner::<S, ROWS>(&probabilities, cotangent, sums.value(chunk, number));
                }
            }
            let mut product = [[0.0; WIDE]; PANEL];
            for (number, keys) in saved.keys_by_feature.panels(source).enumerate() {
                outer::<S, ROWS>(&keys[keys_in_sight.clone()], &grad_scores[keys_in_sight.clone()], &mut product);
                for (feature, row) in (number * PANEL..width).zip(&product) {
                    for i in 0..block.count {
                        grad_query[(first + i) * group + member][feature] = row[i];
                    }
                }
            }
        }
    }
    sums.write(&sums.key, grad_key);
    sums.write(&sums.value, grad_value);
}

/// One block of queries and their cotangents, in both orders.
struct Block {
    count: usize,
    /// [feature][query], scaled: for scores.
    query_t: Vec<Row>,
    /// [feature][query].
    cotangent_t: Vec<Row>,
    /// [chunk of features][query][feature].
    query: Vec<[Row; WIDE]>,
    cotangent: Vec<[Row; WIDE]>,
    /// Σ_feature out · cotangent of each query.
    delta: Row,
}

impl Block {
    fn new(width: usize) -> Self {
        let chunks = width.div_ceil(WIDE);
        Self {
            count: 0,
            query_t: vec![[0.0; WIDE]; width],
            cotangent_t: vec![[0.0; WIDE]; width],
            query: vec![[[0.0; WIDE]; WIDE]; chunks],
            cotangent: vec![[[0.0; WIDE]; WIDE]; chunks],
            delta: [0.0; WIDE],
        }
    }

    #[inline(always)]
    fn load(&mut self, saved: &Saved<'_>, batch: usize, head: usize, first: usize) {
        let Inputs { query: queries, scale, .. } = saved.inputs;
        self.count = saved.inputs.queries().min(first + WIDE) - first;
        let width = self.query_t.len();
        let mut query = vec![0.0; width.next_multiple_of(WIDE)];
        let mut cotangent = query.clone();
        let mut out = vec![0.0; width];
        for i in 0..WIDE {
            if i < self.count {
                queries.read_row(batch, head, first + i, &mut query);
                saved.cotangent.read_row(batch, head, first + i, &mut cotangent);
                saved.out.read_row(batch, head, first + i, &mut out);
            } else {
                query.fill(0.0);
                cotangent.fill(0.0);
            }
            self.delta[i] = out.iter().zip(&cotangent).fold(0.0, |sum, (a, b)| sum + a * b);
            for feature in 0..width {
                self.query_t[feature][i] = query[feature] * scale;
                self.cotangent_t[feature][i] = cotangent[feature];
            }
            let chunks = query.as_chunks::<WIDE>().0.iter().zip(cotangent.as_chunks::<WIDE>().0);
            for (chunk, (query, cotangent)) in chunks.enumerate() {
                self.query[chunk][i] = *query;
                self.cotangent[chunk][i] = *cotangent;
            }
        }
    }
}

/// The gradients of the keys and values of one head, padded, [chunk of features][key][feature].
struct KeySums {
    panels: usize,
    key: Vec<Row>,
    value: Vec<Row>,
}

impl KeySums {
    fn new(keys: usize, width: usize) -> Self {
        let panels = keys.div_ceil(PANEL);
        let zeros = vec![[0.0; WIDE]; width.div_ceil(WIDE) * panels * PANEL];
        Self { panels, key: zeros.clone(), value: zeros }
    }

    #[inline(always)]
    fn key(&mut self, chunk: usize, panel: usize) -> &mut [Row; PANEL] {
        &mut self.key.as_chunks_mut::<PANEL>().0[chunk * self.panels + panel]
    }

    #[inline(always)]
    fn value(&mut self, chunk: usize, panel: usize) -> &mut [Row; PANEL] {
        &mut self.value.as_chunks_mut::<PANEL>().0[chunk * self.panels + panel]
    }

    /// Copies sums of this layout to the rows of their positions.
    fn write(&self, sums: &[Row], rows: &mut [&mut [f32]]) {
        for (position, row) in rows.iter_mut().enumerate() {
            for (chunk, features) in row.chunks_mut(WIDE).enumerate() {
                features.copy_from_slice(&sums[chunk * self.panels * PANEL + position][..features.len()]);
            }
        }
    }
}
