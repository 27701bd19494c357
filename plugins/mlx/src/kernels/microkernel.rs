//! The two small matrix products that attention is made of, with the accumulators in registers.
//!
//! Both work on packed operands of fixed width, so the inner loops have no bounds to check: panels of [`PANEL`] values of the
//! left operand, rows of [`WIDE`] of the right one. `ROWS` says how many rows of accumulators the registers hold; sums run in
//! the order of k whatever it is, so it does not change a bit.

use super::isa::{LANES, Simd};

/// Rows of a left panel.
pub const PANEL: usize = 8;
/// Columns of a right row: two vectors.
pub const WIDE: usize = 2 * LANES;

/// One row of a right operand or of a result.
pub type Row = [f32; WIDE];
/// One step of a left operand.
pub type Column = [f32; PANEL];

/// `c[m] = Σ_k left[k][m] · right[k]`: each step multiplies a column by a row.
#[inline(always)]
pub fn outer<S: Simd, const ROWS: usize>(left: &[Column], right: &[Row], c: &mut [Row; PANEL]) {
    for first in (0..PANEL).step_by(ROWS) {
        let mut sums = [[S::splat(0.0); 2]; ROWS];
        for (left, right) in left.iter().zip(right) {
            let right = load::<S>(right);
            for (m, sums) in sums.iter_mut().enumerate() {
                multiply::<S>(left[first + m], right, sums);
            }
        }
        for (m, sums) in sums.iter().enumerate() {
            store::<S>(*sums, &mut c[first + m]);
        }
    }
}

/// `c[m] += Σ_k left[m][k] · right[k]` over the [`WIDE`] steps of a block.
#[inline(always)]
pub fn inner<S: Simd, const ROWS: usize>(left: &[Row; PANEL], right: &[Row; WIDE], c: &mut [Row; PANEL]) {
    for first in (0..PANEL).step_by(ROWS) {
        let mut sums: [_; ROWS] = std::array::from_fn(|m| load::<S>(&c[first + m]));
        for (k, right) in right.iter().enumerate() {
            let right = load::<S>(right);
            for (m, sums) in sums.iter_mut().enumerate() {
                multiply::<S>(left[first + m][k], right, sums);
            }
        }
        for (m, sums) in sums.iter().enumerate() {
            store::<S>(*sums, &mut c[first + m]);
        }
    }
}

#[inline(always)]
fn load<S: Simd>(row: &Row) -> [S::Vector; 2] {
    let halves = row.as_chunks::<LANES>().0;
    [S::load(&halves[0]), S::load(&halves[1])]
}

#[inline(always)]
fn store<S: Simd>(vectors: [S::Vector; 2], row: &mut Row) {
    let halves = row.as_chunks_mut::<LANES>().0;
    S::store(vectors[0], &mut halves[0]);
    S::store(vectors[1], &mut halves[1]);
}

#[inline(always)]
fn multiply<S: Simd>(left: f32, right: [S::Vector; 2], sums: &mut [S::Vector; 2]) {
    let left = S::splat(left);
    sums[0] = S::madd(left, right[0], sums[0]);
    sums[1] = S::madd(left, right[1], sums[1]);
}
