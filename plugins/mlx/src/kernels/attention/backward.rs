//! The gradients of attention: scores are computed again, and probabilities from the log-sum-exp, a panel of keys at a time.

use std::ops::Range;

use super::pack::Packed;
use super::{Inputs, PANEL, Row, WIDE, slopes, soft_cap};
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
/// A task is one key/value head of one batch row, with all query heads that read it, or a part of their queries: so the sums over
/// queries need no lock. All tasks work on one block of keys, then on the next one.
pub fn backward(inputs: Inputs<'_>, out: View4<'_>, lse: &[f32], cotangent: View4<'_>, gradients: Gradients<'_>) {
    let [batch, _, queries, width] = inputs.query.shape();
    if gradients.query.is_empty() {
        gradients.key.fill(0.0);
        gradients.value.fill(0.0);
        return;
    }
    let blocks = queries.div_ceil(WIDE);
    let in_sight = (0..batch * blocks).map(|block| inputs.mask.panels(block / blocks, block % blocks * WIDE));
    let saved = Saved {
        inputs,
        out,
        cotangent,
        lse: lse.as_chunks::<WIDE>().0,
        in_sight: in_sight.collect(),
        keys: Packed::by_position(inputs.key),
        values: Packed::by_position(inputs.value),
        keys_by_feature: Packed::by_feature(inputs.key),
    };
    let (keys, cut) = (inputs.key.shape()[2], inputs.cut);
    let mut tasks = Task::all(&inputs, gradients);
    for start in (0..keys).step_by(cut.keys) {
        let keys = start..keys.min(start + cut.keys);
        pool::run(tasks.iter_mut().collect(), |task: &mut Task<'_>| {
            let mut sums = KeySums::new(keys.len(), width);
            backward_part(&saved, (task.source, task.part), &keys, &mut task.query, &mut sums);
            match cut.parts {
                1 => task.write(&sums, &keys),
                _ => task.sums = Some(sums),
            }
        });
        for parts in tasks.chunks_mut(cut.parts) {
            let sums = parts.iter_mut().filter_map(|part| part.sums.take());
            if let Some(sums) = sums.reduce(KeySums::plus) {
                parts[0].write(&sums, &keys);
            }
        }
    }
}

/// All that the tasks read.
struct Saved<'a> {
    inputs: Inputs<'a>,
    out: View4<'a>,
    cotangent: View4<'a>,
    lse: &'a [Row],
    /// The panels of keys that each block of queries sees, of one batch row after another.
    in_sight: Vec<Range<usize>>,
    keys: Packed,
    values: Packed,
    keys_by_feature: Packed,
}

/// Every so many blocks of queries of one key/value head. Rows of one head are not next to each other in memory, so each task has
/// them as a list.
struct Task<'a> {
    /// The head, counted over batches and heads.
    source: usize,
    part: usize,
    /// The gradients of its queries, of all heads that read this one, position by position.
    query: Vec<&'a mut [f32]>,
    /// The gradients of its keys and values; the first part has them.
    key: Vec<&'a mut [f32]>,
    value: Vec<&'a mut [f32]>,
    /// The sums of one part among several.
    sums: Option<KeySums>,
}

impl<'a> Task<'a> {
    /// All parts of one head after those of another.
    fn all(inputs: &Inputs<'_>, gradients: Gradients<'a>) -> Vec<Self> {
        let [batch, heads, queries, width] = inputs.query.shape();
        let [_, kv_heads, keys, _] = inputs.key.shape();
        let parts = inputs.cut.parts;
        let task = |number| {
            let (source, part) = (number / parts, number % parts);
            Self { source, part, query: Vec::new(), key: Vec::new(), value: Vec::new(), sums: None }
        };
        let mut tasks: Vec<Self> = (0..batch * kv_heads * parts).map(task).collect();
        // The batch row, the position and the head of each row of a gradient.
        let place = |number: usize, positions: usize, heads: usize| {
            (number / (positions * heads), number / heads % positions, number % heads)
        };
        for (number, row) in gradients.query.chunks_exact_mut(width).enumerate() {
            let (batch, position, head) = place(number, queries, heads);
            let source = batch * kv_heads + head / inputs.group();
            tasks[source * parts + position / WIDE % parts].query.push(row);
        }
        let rows = gradients.key.chunks_exact_mut(width).zip(gradients.value.chunks_exact_mut(width));
        for (number, (key, value)) in rows.enumerate() {
            let (batch, _, head) = place(number, keys, kv_heads);
            let task = &mut tasks[(batch * kv_heads + head) * parts];
            task.key.push(key);
            task.value.push(value);
        }
        tasks
    }

    fn write(&mut self, sums: &KeySums, keys: &Range<usize>) {
        sums.write(&sums.key, &mut self.key[keys.clone()]);
        sums.write(&sums.value, &mut self.value[keys.clone()]);
    }
}

multiversion! {
    fn backward_part(saved: &Saved<'_>, task: (usize, usize), keys: &Range<usize>, query: &mut [&mut [f32]], sums: &mut KeySums) = backward_body;
}

/// What a part of the queries of one head adds to the gradients of a block of keys, and what these add to the gradients of the
/// queries.
#[inline(always)]
fn backward_body<S: Simd, const ROWS: usize>(
    saved: &Saved<'_>,
    (source, part): (usize, usize),
    keys: &Range<usize>,
    grad_query: &mut [&mut [f32]],
    sums: &mut KeySums,
) {
    let inputs = &saved.inputs;
    let [_, heads, queries, width] = inputs.query.shape();
    let kv_heads = inputs.key.shape()[1];
    let (batch, group, blocks) = (source / kv_heads, inputs.group(), queries.div_ceil(WIDE));
    let here = keys.start / PANEL..keys.end.div_ceil(PANEL);
    let mut block = Block::new(width);
    let mut grad_scores = vec![[0.0; WIDE]; here.len() * PANEL];
    for (own, number) in (part..blocks).step_by(inputs.cut.parts).enumerate() {
        let (first, in_sight) = (number * WIDE, &saved.in_sight[batch * blocks + number]);
        let panels = in_sight.start.max(here.start)..in_sight.end.min(here.end);
        if panels.is_empty() {
            continue;
        }
        let is_first = in_sight.start >= here.start;
        // The places of their keys, among all and among those of the block.
        let places = panels.start * PANEL..panels.end * PANEL;
        let places_here = places.start - here.start * PANEL..places.end - here.start * PANEL;
        for member in 0..group {
            let head = source % kv_heads * group + member;
            block.load(saved, batch, head, first);
            let lse = &saved.lse[(batch * blocks + number) * heads + head];
            let packed = saved.keys.panels(source).zip(saved.values.panels(source)).skip(panels.start);
            let of_panels = grad_scores[places_here.clone()].as_chunks_mut::<PANEL>().0;
            for ((panel, (keys, values)), grad_scores) in panels.clone().zip(packed).zip(of_panels) {
                let mut probabilities = [[0.0; WIDE]; PANEL];
                outer::<S, ROWS>(keys, &block.query_t, &mut probabilities);
                outer::<S, ROWS>(values, &block.cotangent_t, grad_scores);
                let slopes = inputs.soft_cap.map(|cap| {
                    soft_cap::<S>(&mut probabilities, cap);
                    slopes(&probabilities, cap)
                });
                for row in &mut probabilities {
                    for i in 0..WIDE {
                        row[i] = exp::<S>(row[i] - lse[i]);
                    }
                }
                inputs.mask.hide(batch, first, panel * PANEL, &mut probabilities, 0.0);
                for (grad, probability) in grad_scores.iter_mut().zip(&probabilities) {
                    for i in 0..WIDE {
                        grad[i] = probability[i] * (grad[i] - block.delta[i]) * inputs.scale;
                    }
                }
                for (grad, slope) in grad_scores.iter_mut().zip(slopes.iter().flatten()) {
                    for i in 0..WIDE {
                        grad[i] *= slope[i];
                    }
                }
                for (chunk, (query, cotangent)) in block.query.iter().zip(&block.cotangent).enumerate() {
                    inner::<S, ROWS>(grad_scores, query, sums.key(chunk, panel - here.start));
                    inner::<S, ROWS>(&probabilities, cotangent, sums.value(chunk, panel - here.start));
                }
            }
            let mut product = [[0.0; WIDE]; PANEL];
            for (number, keys) in saved.keys_by_feature.panels(source).enumerate() {
                outer::<S, ROWS>(&keys[places.clone()], &grad_scores[places_here.clone()], &mut product);
                for (feature, row) in (number * PANEL..width).zip(&product) {
                    for i in 0..block.count {
                        let sum = &mut grad_query[(own * WIDE + i) * group + member][feature];
                        *sum = if is_first { row[i] } else { *sum + row[i] };
                    }
                }
            }
        }
    }
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

/// The gradients of some keys and values of one head, padded, [chunk of features][key][feature].
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

    /// The sums of two parts.
    fn plus(mut self, other: Self) -> Self {
        let pairs = self.key.iter_mut().zip(&other.key).chain(self.value.iter_mut().zip(&other.value));
        pairs.for_each(|(sum, more)| (0..WIDE).for_each(|i| sum[i] += more[i]));
        self
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
