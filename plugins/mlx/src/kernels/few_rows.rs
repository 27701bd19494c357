//! Products of a few rows with a weight, as generation has them: each number of the weight is read once, in its order, where a
//! matrix product would copy it first. The result of a row does not depend on the other rows.

use super::isa::{LANES, Simd, fold, madd, multiversion};
use super::pool;

/// Rows of which there are few.
pub const FEW: usize = 8;

/// Rows whose sums are in registers together.
const TOGETHER: usize = 4;
/// Rows of the weight per task.
const BLOCK: usize = 32;

/// `out[n, o] = Σ x[n, i] · weight[o, i]` for up to [`FEW`] rows x, `width` and more than 0 long.
pub fn forward(x: &[f32], weight: &[f32], width: usize, out: &mut [f32]) {
    let (rows, outputs) = (x.len() / width, weight.len() / width);
    if rows == 1 {
        return by_output(x, weight, width, out);
    }
    let mut turned = vec![0.0; out.len()];
    by_output(x, weight, width, &mut turned);
    for (row, out) in out.chunks_exact_mut(outputs).enumerate() {
        for (out, sums) in out.iter_mut().zip(turned.chunks_exact(rows)) {
            *out = sums[row];
        }
    }
}

/// The same as `[o, n]`.
fn by_output(x: &[f32], weight: &[f32], width: usize, out: &mut [f32]) {
    let rows = x.len() / width;
    let tasks = weight.chunks(BLOCK * width).zip(out.chunks_mut(BLOCK * rows));
    pool::run(tasks.collect(), |(weight, out)| block(x, weight, width, out));
}

multiversion! {
    fn block(x: &[f32], weight: &[f32], width: usize, out: &mut [f32]) = block_body;
}

#[inline(always)]
fn block_body<S: Simd, const ROWS: usize>(x: &[f32], weight: &[f32], width: usize, out: &mut [f32]) {
    let rows = x.len() / width;
    for (weight, out) in weight.chunks_exact(width).zip(out.chunks_exact_mut(rows)) {
        for (x, out) in x.chunks(TOGETHER * width).zip(out.chunks_mut(TOGETHER)) {
            match out.len() {
                1 => products::<S, 1>(x, weight, out),
                2 => products::<S, 2>(x, weight, out),
                3 => products::<S, 3>(x, weight, out),
                _ => products::<S, TOGETHER>(x, weight, out),
            }
        }
    }
}

#[inline(always)]
fn products<S: Simd, const N: usize>(x: &[f32], weight: &[f32], out: &mut [f32]) {
    let (chunks, rest) = weight.as_chunks::<LANES>();
    let rows: [_; N] = std::array::from_fn(|n| x[n * weight.len()..][..weight.len()].as_chunks::<LANES>());
    let mut sums = [S::splat(0.0); N];
    for (place, weight) in chunks.iter().enumerate() {
        let weight = S::load(weight);
        for (sum, (chunks, _)) in sums.iter_mut().zip(&rows) {
            *sum = S::madd(S::load(&chunks[place]), weight, *sum);
        }
    }
    for ((out, sum), (_, x)) in out.iter_mut().zip(sums).zip(&rows) {
        let mut lanes = [0.0; LANES];
        S::store(sum, &mut lanes);
        *out = x.iter().zip(rest).fold(fold(lanes), |sum, (&x, &weight)| madd::<S>(x, weight, sum));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::tests::{assert_close_above, random};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn products_are_those_of_the_formula_and_of_each_row_alone(
            rows in 1usize..=FEW, width in 1usize..200, outputs in 1usize..100, seed in any::<u32>(),
        ) {
            let mut random = random(seed);
            let mut draw = |len: usize| -> Vec<f32> { (0..len).map(|_| random()).collect() };
            let (x, weight) = (draw(rows * width), draw(outputs * width));
            let mut out = vec![0.0; rows * outputs];
            forward(&x, &weight, width, &mut out);
            let exact = |n: usize, o: usize| -> f64 {
                (0..width).map(|i| f64::from(x[n * width + i]) * f64::from(weight[o * width + i])).sum()
            };
            let expected: Vec<f64> = (0..rows).flat_map(|n| (0..outputs).map(move |o| (n, o))).map(|(n, o)| exact(n, o)).collect();
            assert_close_above(&out, &expected, 1.0, 1e-5);
            for (row, together) in x.chunks_exact(width).zip(out.chunks_exact(outputs)) {
                let mut alone = vec![0.0; outputs];
                forward(row, &weight, width, &mut alone);
                prop_assert_eq!(&alone, together);
            }
        }
    }
}
