//! Cross-entropy of a head's logits, of which only some columns of some rows, a tile, are there at a time.
//!
//! The forward pass folds one tile of a row after another into that row's [`Sums`]; [`finish`] makes loss and log-sum-exp of them.
//! From the log-sum-exp alone, the backward pass turns each tile of logits, computed again, into its gradient. A row whose
//! logits are one tile has the bits of [`super::cross_entropy`].

use super::cross_entropy::{row_max, sum_exp};
use super::half::{Bf16, Element};
use super::isa::{Simd, exp, larger, multiversion, tanh};
use super::pool;

/// Rows per task: 8 rows of 8192 logits are 256 KiB.
const ROWS: usize = 8;

/// What becomes of the products of hidden states and weights in a tile.
#[derive(Clone, Copy)]
pub struct Tile<'a> {
    /// The column of the first logit of a row, among all.
    pub first: usize,
    /// The number of columns.
    pub width: usize,
    /// Added to each column, `width` values.
    pub bias: Option<&'a [f32]>,
    /// What the sums are multiplied by.
    pub scale: f32,
    /// Whether a logit becomes `cap · tanh(logit / cap)`.
    pub soft_cap: Option<f32>,
}

/// What is known of each row's logits: their maximum, the sum of e^(logit − maximum), and the one of the target.
pub struct Sums<'a> {
    /// The maxima.
    pub max: &'a mut [f32],
    /// The sums.
    pub sum: &'a mut [f32],
    /// The targets' logits, NaN where none has been met.
    pub at_target: &'a mut [f32],
}

/// Folds a tile of products into the sums of its rows, which begin with the first column. The products are overwritten by logits.
pub fn fold(products: &mut [f32], tile: Tile<'_>, targets: &[i32], sums: Sums<'_>) {
    let tasks = products.chunks_mut(ROWS * tile.width.max(1)).zip(targets.chunks(ROWS));
    let sums = sums.max.chunks_mut(ROWS).zip(sums.sum.chunks_mut(ROWS)).zip(sums.at_target.chunks_mut(ROWS));
    pool::run(tasks.zip(sums).collect(), |((products, targets), ((max, sum), at_target))| {
        fold_block(products, tile, targets, Sums { max, sum, at_target });
    });
}

multiversion! {
    fn fold_block(products: &mut [f32], tile: Tile<'_>, targets: &[i32], sums: Sums<'_>) = fold_body;
}

#[inline(always)]
fn fold_body<S: Simd, const ROWS: usize>(products: &mut [f32], tile: Tile<'_>, targets: &[i32], sums: Sums<'_>) {
    for (i, (row, &target)) in products.chunks_exact_mut(tile.width).zip(targets).enumerate() {
        logits::<S>(row, tile);
        if tile.first == 0 {
            (sums.max[i], sums.sum[i], sums.at_target[i]) = (f32::NEG_INFINITY, 0.0, f32::NAN);
        }
        let max = larger(sums.max[i], row_max(row));
        // Of −Inf and NaN alone, the maximum is −Inf, and −Inf − −Inf would be NaN.
        let from = if max == f32::NEG_INFINITY { 0.0 } else { max };
        sums.sum[i] = sums.sum[i] * exp::<S>(sums.max[i] - from) + sum_exp::<S>(row, from);
        sums.max[i] = max;
        if let Some(&logit) = place(target, tile).and_then(|place| row.get(place)) {
            sums.at_target[i] = logit;
        }
    }
}

/// After the last tile: the loss in the place of the target's logit, and the log-sum-exp in that of the maximum. A negative
/// target marks a row that is not trained: its loss is 0. A target beyond all columns gives NaN.
pub fn finish(targets: &[i32], sums: &mut Sums<'_>) {
    for (i, &target) in targets.iter().enumerate() {
        let (log_sum, max) = (sums.sum[i].ln(), sums.max[i]);
        // Not lse − logit: a confident row's small loss would drown in the rounding of a large maximum.
        sums.at_target[i] = if target < 0 { 0.0 } else { log_sum - (sums.at_target[i] - max) };
        sums.max[i] = max + log_sum;
    }
}

/// The cotangents of some rows, and what they are of.
#[derive(Clone, Copy)]
pub struct Cotangents<'a> {
    /// The targets.
    pub targets: &'a [i32],
    /// What [`finish`] gave.
    pub lse: &'a [f32],
    /// The cotangents of the losses.
    pub cotangents: &'a [f32],
    /// The number of all columns.
    pub vocabulary: usize,
}

/// Turns a tile of products into their gradient, all zero where the target is negative. It is in `narrow`, too, unless that is empty.
pub fn gradient(products: &mut [f32], tile: Tile<'_>, rows: Cotangents<'_>, narrow: &mut [Bf16]) {
    let mut narrow = narrow.chunks_mut(ROWS * tile.width.max(1));
    let Cotangents { targets, lse, cotangents, vocabulary } = rows;
    let rows = targets.chunks(ROWS).zip(lse.chunks(ROWS)).zip(cotangents.chunks(ROWS));
    let products = products.chunks_mut(ROWS * tile.width.max(1));
    let tasks = products.zip(rows).map(|(products, rows)| (products, rows, narrow.next().unwrap_or_default()));
    pool::run(tasks.collect(), |(products, ((targets, lse), cotangents), narrow)| {
        gradient_block(products, tile, Cotangents { targets, lse, cotangents, vocabulary }, narrow);
    });
}

multiversion! {
    fn gradient_block(products: &mut [f32], tile: Tile<'_>, rows: Cotangents<'_>, narrow: &mut [Bf16]) = gradient_body;
}

#[inline(always)]
fn gradient_body<S: Simd, const ROWS: usize>(
    products: &mut [f32],
    tile: Tile<'_>,
    rows: Cotangents<'_>,
    narrow: &mut [Bf16],
) {
    let mut narrow = narrow.chunks_exact_mut(tile.width);
    for (i, row) in products.chunks_exact_mut(tile.width).enumerate() {
        row_gradient::<S>(row, tile, rows, i);
        if let Some(narrow) = narrow.next() {
            narrow.iter_mut().zip(row).for_each(|(narrow, value)| *narrow = Bf16::nearest(*value));
        }
    }
}

/// Turns row `i` into its gradient.
#[inline(always)]
fn row_gradient<S: Simd>(row: &mut [f32], tile: Tile<'_>, rows: Cotangents<'_>, i: usize) {
    let (target, lse, factor) = (rows.targets[i], rows.lse[i], rows.cotangents[i] * tile.scale);
    if target < 0 {
        row.fill(0.0);
        return;
    }
    logits::<S>(row, tile);
    let place = place(target, tile).filter(|&place| place < row.len());
    let logit = place.map_or(0.0, |place| row[place]);
    match tile.soft_cap {
        None => row.iter_mut().for_each(|logit| *logit = exp::<S>(*logit - lse) * factor),
        Some(cap) => row.iter_mut().for_each(|logit| *logit = exp::<S>(*logit - lse) * factor * slope(*logit, cap)),
    }
    if let Some(place) = place {
        row[place] -= factor * tile.soft_cap.map_or(1.0, |cap| slope(logit, cap));
    }
    if target as usize >= rows.vocabulary {
        row.fill(f32::NAN);
    }
}

/// The derivative of `cap · tanh(x / cap)`, of its value.
#[inline(always)]
pub fn slope(value: f32, cap: f32) -> f32 {
    let tanh = value / cap;
    1.0 - tanh * tanh
}

/// Makes logits of the products.
#[inline(always)]
fn logits<S: Simd>(row: &mut [f32], tile: Tile<'_>) {
    if let Some(bias) = tile.bias {
        row.iter_mut().zip(bias).for_each(|(product, bias)| *product += bias);
    }
    if tile.scale != 1.0 {
        row.iter_mut().for_each(|logit| *logit *= tile.scale);
    }
    if let Some(cap) = tile.soft_cap {
        row.iter_mut().for_each(|logit| *logit = cap * tanh::<S>(*logit / cap));
    }
}

/// The place of a target in a row of the tile, if it lies behind its beginning.
#[inline(always)]
fn place(target: i32, tile: Tile<'_>) -> Option<usize> {
    usize::try_from(target).ok()?.checked_sub(tile.first)
}

#[cfg(test)]
mod tests;
