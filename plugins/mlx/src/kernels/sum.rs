//! Sums along the middle one of three axes. Partial sums of 256 elements are f32, their sums f64: the result is off by the rounding
//! of a few additions, however many elements there are.

use super::isa::{LANES, Simd, fold, multiversion};
use super::pool;

/// Elements that are added in f32.
const RUN: usize = 256;
/// Elements per task.
const BLOCK: usize = 16 * 1024;
/// Columns per task where the sums run over rows.
const COLUMNS: usize = 256;

/// `out[o, i] = Σ x[o, .., i]`: x `[outer, count, inner]`, none of which is 0.
pub fn forward(x: &[f32], count: usize, inner: usize, out: &mut [f32]) {
    if inner == 1 {
        let rows = BLOCK.div_ceil(count);
        let tasks = x.chunks(rows * count).zip(out.chunks_mut(rows));
        pool::run(tasks.collect(), |(x, out)| rows_block(x, count, out));
        return;
    }
    let tasks = x.chunks(count * inner).zip(out.chunks_mut(inner));
    let tasks = tasks.flat_map(|(x, out)| out.chunks_mut(COLUMNS).enumerate().map(move |task| (x, task)));
    pool::run(tasks.collect(), |(x, (number, out))| columns_block(x, inner, number * COLUMNS, out));
}

multiversion! {
    fn rows_block(x: &[f32], count: usize, out: &mut [f32]) = rows_body;
}

#[inline(always)]
fn rows_body<S: Simd, const ROWS: usize>(x: &[f32], count: usize, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(count).zip(out) {
        let total: f64 = x.chunks(RUN).map(|run| f64::from(run_sum(run))).sum();
        *out = total as f32;
    }
}

#[inline(always)]
fn run_sum(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in chunks {
        for l in 0..LANES {
            sums[l] += chunk[l];
        }
    }
    fold(sums) + rest.iter().sum::<f32>()
}

multiversion! {
    fn columns_block(x: &[f32], inner: usize, first: usize, out: &mut [f32]) = columns_body;
}

#[inline(always)]
fn columns_body<S: Simd, const ROWS: usize>(x: &[f32], inner: usize, first: usize, out: &mut [f32]) {
    let mut sums = [0f64; COLUMNS];
    for row in x.chunks_exact(inner) {
        for (sum, &x) in sums.iter_mut().zip(&row[first..][..out.len()]) {
            *sum += f64::from(x);
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = sum as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_many_elements_are_exact_to_a_few_roundings() {
        for (outer, count, inner) in [(1, 100_003, 1), (3, 700, 1), (2, 999, 300), (5, 1, 7)] {
            let mut random = crate::kernels::tests::random(3);
            let x: Vec<f32> = (0..outer * count * inner).map(|_| random() + 1.0).collect();
            let mut out = vec![0.0; outer * inner];
            forward(&x, count, inner, &mut out);
            for (place, &got) in out.iter().enumerate() {
                let (o, i) = (place / inner, place % inner);
                let want: f64 = (0..count).map(|c| f64::from(x[(o * count + c) * inner + i])).sum();
                assert!((f64::from(got) - want).abs() <= want * 2e-7, "{got} {want}");
            }
        }
    }
}
