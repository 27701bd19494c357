//! Packing of keys, values and query blocks into the shapes that the micro-kernels read.

use std::ops::Range;

use crate::kernels::microkernel::{Column, PANEL, Row};
use crate::kernels::{View4, pool};

/// All heads of a [B, H, T, D] view as panels of eight, zero-padded.
pub(super) struct Packed {
    columns: Vec<Column>,
    panels: usize,
    steps: usize,
}

impl Packed {
    /// Panels of eight positions; the steps are the features: for scores, whose sum runs over features.
    pub(super) fn by_position(x: View4<'_>) -> Self {
        let [_, _, positions, width] = x.shape();
        Self::pack(x, positions.div_ceil(PANEL), width, |position, feature| {
            (position / PANEL * width + feature, position % PANEL)
        })
    }

    /// Panels of eight features; the steps are the positions, padded to eight: for sums over positions.
    pub(super) fn by_feature(x: View4<'_>) -> Self {
        let [_, _, positions, width] = x.shape();
        let steps = positions.next_multiple_of(PANEL);
        Self::pack(x, width.div_ceil(PANEL), steps, |position, feature| {
            (feature / PANEL * steps + position, feature % PANEL)
        })
    }

    fn pack(x: View4<'_>, panels: usize, steps: usize, place: impl Fn(usize, usize) -> (usize, usize) + Sync) -> Self {
        let [batch, heads, positions, width] = x.shape();
        let mut columns = vec![[0.0; PANEL]; batch * heads * panels * steps];
        let tasks: Vec<_> = columns.chunks_mut((panels * steps).max(1)).enumerate().collect();
        pool::run(tasks, |(number, columns)| {
            let mut row = vec![0.0; width];
            for position in 0..positions {
                x.read_row(number / heads, number % heads, position, &mut row);
                for (feature, &value) in row.iter().enumerate() {
                    let (step, lane) = place(position, feature);
                    columns[step][lane] = value;
                }
            }
        });
        Self { columns, panels, steps }
    }

    /// The panels of head `source`, counted over batches and heads.
    pub(super) fn panels(&self, source: usize) -> std::slice::ChunksExact<'_, Column> {
        let size = self.panels * self.steps;
        self.columns[source * size..][..size].chunks_exact(self.steps)
    }
}

/// `out[feature][i] = factor · x[batch, head, positions[i], feature]`, zero in the lanes after the last position.
#[inline(always)]
pub(super) fn transpose_block(
    x: &View4<'_>,
    batch: usize,
    head: usize,
    positions: Range<usize>,
    factor: f32,
    out: &mut [Row],
) {
    let mut row = vec![0.0; out.len()];
    out.fill([0.0; _]);
    for (i, position) in positions.enumerate() {
        x.read_row(batch, head, position, &mut row);
        for (out, value) in out.iter_mut().zip(&row) {
            out[i] = value * factor;
        }
    }
}
