//! RMSNorm, y = x / √(mean(x²) + ε) · w (Zhang and Sennrich, 2019), alone or together with the residual addition before it.

use super::isa::{LANES, Simd, fold, madd, multiversion};
use super::pool;

/// Rows per task. Each task adds up its own part of the weight's gradient, and the parts are folded in order.
const ROWS: usize = 32;

/// The cotangents of a norm that was fused with a residual addition: of the normalised rows, and of the sum itself if that was used.
#[derive(Clone, Copy)]
pub struct Cotangents<'a> {
    /// Cotangent of y.
    pub normed: &'a [f32],
    /// Cotangent of the sum x + residual; `None` where only y was an output.
    pub sum: Option<&'a [f32]>,
}

/// Normalises each row of `x`, rows of `weight.len()` values.
pub fn forward(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    let tasks = x.chunks(ROWS * width).zip(out.chunks_mut(ROWS * width));
    pool::run(tasks.collect(), |(x, out)| forward_block(x, weight, eps, out));
}

/// `sum = x + residual`, and `out` the norm of `sum`.
pub fn forward_residual(x: &[f32], residual: &[f32], weight: &[f32], eps: f32, sum: &mut [f32], out: &mut [f32]) {
    let block = ROWS * weight.len();
    let tasks = x.chunks(block).zip(residual.chunks(block)).zip(sum.chunks_mut(block).zip(out.chunks_mut(block)));
    pool::run(tasks.collect(), |((x, residual), (sum, out))| {
        for ((sum, x), residual) in sum.iter_mut().zip(x).zip(residual) {
            *sum = x + residual;
        }
        forward_block(sum, weight, eps, out);
    });
}

/// Gradients of the row input (plus the cotangent of the sum, if any) and of the weight.
pub fn backward(
    x: &[f32],
    weight: &[f32],
    eps: f32,
    cotangents: Cotangents<'_>,
    grad_x: &mut [f32],
    grad_weight: &mut [f32],
) {
    let width = weight.len();
    let block = ROWS * width;
    let blocks = x.len().div_ceil(block);
    let mut partial = vec![0.0; blocks * width];
    let sums: Vec<&[f32]> = match cotangents.sum {
        Some(sum) => sum.chunks(block).collect(),
        None => vec![&[]; blocks],
    };
    let inputs = x.chunks(block).zip(cotangents.normed.chunks(block)).zip(sums);
    let tasks = inputs.zip(grad_x.chunks_mut(block).zip(partial.chunks_mut(width)));
    pool::run(tasks.collect(), |(((x, normed), sum), (grad_x, partial))| {
        backward_block(x, weight, eps, normed, sum, grad_x, partial)
    });
    grad_weight.fill(0.0);
    for part in partial.chunks_exact(width) {
        for (sum, part) in grad_weight.iter_mut().zip(part) {
            *sum += part;
        }
    }
}

multiversion! {
    fn forward_block(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = forward_body;
}

#[inline(always)]
fn forward_body<S: Simd, const ROWS: usize>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let scale = inverse_rms::<S>(x, eps);
        for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * w;
        }
    }
}

multiversion! {
    fn backward_block(x: &[f32], weight: &[f32], eps: f32, normed: &[f32], sum: &[f32], grad_x: &mut [f32], grad_weight: &mut [f32]) = backward_body;
}

#[inline(always)]
fn backward_body<S: Simd, const ROWS: usize>(
    x: &[f32],
    weight: &[f32],
    eps: f32,
    normed: &[f32],
    sum: &[f32],
    grad_x: &mut [f32],
    grad_weight: &mut [f32],
) {
    let width = weight.len();
    let rows = x.chunks_exact(width).zip(normed.chunks_exact(width)).zip(grad_x.chunks_exact_mut(width));
    for (i, ((x, c), dx)) in rows.enumerate() {
        let scale = inverse_rms::<S>(x, eps);
        let projection = weighted_dot::<S>(x, weight, c);
        // dx = r · (c·w − x · r² · mean(c·w·x))
        let shift = projection * scale * scale / width as f32;
        for ((dx, x), (w, c)) in dx.iter_mut().zip(x).zip(weight.iter().zip(c)) {
            *dx = scale * madd::<S>(-shift, *x, c * w);
        }
        for ((dw, x), c) in grad_weight.iter_mut().zip(x).zip(c) {
            *dw = madd::<S>(*x * scale, *c, *dw);
        }
        if let Some(sum) = sum.get(i * width..(i + 1) * width) {
            for (dx, sum) in dx.iter_mut().zip(sum) {
                *dx += sum;
            }
        }
    }
}

#[inline(always)]
fn inverse_rms<S: Simd>(x: &[f32], eps: f32) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut squares = [0.0; LANES];
    for chunk in chunks {
        for l in 0..LANES {
            squares[l] = madd::<S>(chunk[l], chunk[l], squares[l]);
        }
    }
    let total = fold(squares) + rest.iter().map(|x| x * x).sum::<f32>();
    1.0 / (total / x.len() as f32 + eps).sqrt()
}

/// Σ x · w · c
#[inline(always)]
fn weighted_dot<S: Simd>(x: &[f32], w: &[f32], c: &[f32]) -> f32 {
    let ((x, x_rest), (w, w_rest), (c, c_rest)) =
        (x.as_chunks::<LANES>(), w.as_chunks::<LANES>(), c.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for ((x, w), c) in x.iter().zip(w).zip(c) {
        for l in 0..LANES {
            sums[l] = madd::<S>(x[l] * w[l], c[l], sums[l]);
        }
    }
    let rest = x_rest.iter().zip(w_rest).zip(c_rest);
    fold(sums) + rest.map(|((x, w), c)| x * w * c).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::{assert_close, random};
    use proptest::prelude::*;

    /// Σ c · rms_norm(x) + Σ s · x in f64, whose derivatives are the gradients.
    fn objective(x: &[f64], w: &[f64], c: &[f32], s: &[f32]) -> f64 {
        let width = w.len();
        let mut total = 0.0;
        for (i, row) in x.chunks(width).enumerate() {
            let r = 1.0 / (row.iter().map(|x| x * x).sum::<f64>() / width as f64 + 1e-5).sqrt();
            total += (0..width)
                .map(|j| f64::from(c[i * width + j]) * row[j] * r * w[j] + f64::from(s[i * width + j]) * row[j])
                .sum::<f64>();
        }
        total
    }

    fn derivative(f: impl Fn(&[f64]) -> f64, at: &[f32]) -> Vec<f64> {
        let mut point: Vec<f64> = at.iter().map(|&x| f64::from(x)).collect();
        (0..point.len())
            .map(|i| {
                let (saved, step) = (point[i], 1e-6);
                point[i] = saved + step;
                let up = f(&point);
                point[i] = saved - step;
                let down = f(&point);
                point[i] = saved;
                (up - down) / (2.0 * step)
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn gradients_are_the_derivatives(rows in 1usize..70, width in 1usize..40, seed in any::<u32>()) {
            let mut random = random(seed);
            let mut draw = |n: usize| -> Vec<f32> { (0..n).map(|_| random() * 2.0).collect() };
            let (a, b, w) = (draw(rows * width), draw(rows * width), draw(width));
            let (c, s) = (draw(rows * width), draw(rows * width));
            let (mut sum, mut out) = (vec![0.0; rows * width], vec![0.0; rows * width]);
            forward_residual(&a, &b, &w, 1e-5, &mut sum, &mut out);
            let mut plain = vec![0.0; rows * width];
            forward(&sum, &w, 1e-5, &mut plain);
            prop_assert_eq!(&plain, &out);
            let (mut dx, mut dw) = (vec![0.0; rows * width], vec![0.0; width]);
            backward(&sum, &w, 1e-5, Cotangents { normed: &c, sum: Some(&s) }, &mut dx, &mut dw);
            let w64: Vec<f64> = w.iter().map(|&w| f64::from(w)).collect();
            let x64: Vec<f64> = sum.iter().map(|&x| f64::from(x)).collect();
            assert_close(&dx, &derivative(|x| objective(x, &w64, &c, &s), &sum), 2e-5);
            assert_close(&dw, &derivative(|w| objective(&x64, w, &c, &s), &w), 2e-5);
        }
    }
}
