//! RMSNorm, y = x / √(mean(x²) + ε) · w (Zhang and Sennrich, 2019).

use super::half::{Bf16, Element};
use super::isa::{LANES, Simd, fold, madd, multiversion};
use super::pool;

/// Rows per task. Each task adds up its own part of the weight's gradient, and the parts are folded in order.
const ROWS: usize = 32;

/// Elements with the loops that are compiled for them.
pub trait Normed: Element {
    /// [`forward`] of a block.
    fn forward_block(x: &[Self], weight: &[f32], eps: f32, out: &mut [Self]);
    /// [`backward`] of a block, whose gradient of the weight is added.
    fn backward_block(
        x: &[Self],
        weight: &[f32],
        eps: f32,
        cotangent: &[Self],
        grad_x: &mut [Self],
        grad_weight: &mut [f32],
    );
}

/// Normalises each row of `x`, rows of `weight.len()` values.
pub fn forward<E: Normed>(x: &[E], weight: &[f32], eps: f32, out: &mut [E]) {
    let width = weight.len();
    let tasks = x.chunks(ROWS * width).zip(out.chunks_mut(ROWS * width));
    pool::run(tasks.collect(), |(x, out)| E::forward_block(x, weight, eps, out));
}

/// Gradients of the rows and of the weight, for the cotangent of the output.
pub fn backward<E: Normed>(
    x: &[E],
    weight: &[f32],
    eps: f32,
    cotangent: &[E],
    grad_x: &mut [E],
    grad_weight: &mut [f32],
) {
    let width = weight.len();
    let block = ROWS * width;
    let blocks = x.len().div_ceil(block);
    let mut partial = vec![0.0; blocks * width];
    let inputs = x.chunks(block).zip(cotangent.chunks(block));
    let tasks = inputs.zip(grad_x.chunks_mut(block).zip(partial.chunks_mut(width)));
    pool::run(tasks.collect(), |((x, cotangent), (grad_x, partial))| {
        E::backward_block(x, weight, eps, cotangent, grad_x, partial);
    });
    grad_weight.fill(0.0);
    for part in partial.chunks_exact(width) {
        for (sum, part) in grad_weight.iter_mut().zip(part) {
            *sum += part;
        }
    }
}

/// Implements [`Normed`] for a type.
macro_rules! normed {
    ($element:ty) => {
        impl Normed for $element {
            fn forward_block(x: &[Self], weight: &[f32], eps: f32, out: &mut [Self]) {
                multiversion! {
                    fn block(x: &[$element], weight: &[f32], eps: f32, out: &mut [$element]) = forward_body;
                }
                block(x, weight, eps, out);
            }

            fn backward_block(
                x: &[Self],
                weight: &[f32],
                eps: f32,
                cotangent: &[Self],
                grad_x: &mut [Self],
                grad_weight: &mut [f32],
            ) {
                multiversion! {
                    fn block(
                        x: &[$element], weight: &[f32], eps: f32, cotangent: &[$element], grad_x: &mut [$element],
                        grad_weight: &mut [f32],
                    ) = backward_body;
                }
                block(x, weight, eps, cotangent, grad_x, grad_weight);
            }
        }
    };
}
normed!(f32);
normed!(Bf16);

#[inline(always)]
fn forward_body<S: Simd, const ROWS: usize>(x: &[impl Element], weight: &[f32], eps: f32, out: &mut [impl Element]) {
    let width = weight.len();
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let scale = inverse_rms::<S>(x, eps);
        for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
            *out = Element::nearest(x.wide() * scale * w);
        }
    }
}

#[inline(always)]
fn backward_body<S: Simd, const ROWS: usize>(
    x: &[impl Element],
    weight: &[f32],
    eps: f32,
    cotangent: &[impl Element],
    grad_x: &mut [impl Element],
    grad_weight: &mut [f32],
) {
    let width = weight.len();
    let rows = x.chunks_exact(width).zip(cotangent.chunks_exact(width)).zip(grad_x.chunks_exact_mut(width));
    for ((x, c), dx) in rows {
        let scale = inverse_rms::<S>(x, eps);
        let projection = weighted_dot::<S>(x, weight, c);
        // dx = r · (c·w − x · r² · mean(c·w·x))
        let shift = projection * scale * scale / width as f32;
        for ((dx, x), (w, c)) in dx.iter_mut().zip(x).zip(weight.iter().zip(c)) {
            *dx = Element::nearest(scale * madd::<S>(-shift, x.wide(), c.wide() * w));
        }
        for ((dw, x), c) in grad_weight.iter_mut().zip(x).zip(c) {
            *dw = madd::<S>(x.wide() * scale, c.wide(), *dw);
        }
    }
}

#[inline(always)]
fn inverse_rms<S: Simd>(x: &[impl Element], eps: f32) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut squares = [0.0; LANES];
    for chunk in chunks {
        for l in 0..LANES {
            squares[l] = madd::<S>(chunk[l].wide(), chunk[l].wide(), squares[l]);
        }
    }
    let total = fold(squares) + rest.iter().map(|x| x.wide() * x.wide()).sum::<f32>();
    1.0 / (total / x.len() as f32 + eps).sqrt()
}

/// Σ x · w · c
#[inline(always)]
fn weighted_dot<S: Simd>(x: &[impl Element], w: &[f32], c: &[impl Element]) -> f32 {
    let ((x, x_rest), (w, w_rest), (c, c_rest)) =
        (x.as_chunks::<LANES>(), w.as_chunks::<LANES>(), c.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for ((x, w), c) in x.iter().zip(w).zip(c) {
        for l in 0..LANES {
            sums[l] = madd::<S>(x[l].wide() * w[l], c[l].wide(), sums[l]);
        }
    }
    let rest = x_rest.iter().zip(w_rest).zip(c_rest);
    fold(sums) + rest.map(|((x, w), c)| x.wide() * w * c.wide()).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::{assert_close, random};
    use proptest::prelude::*;

    /// Σ c · rms_norm(x) in f64, whose derivatives are the gradients.
    fn objective(x: &[f64], w: &[f64], c: &[f32]) -> f64 {
        let width = w.len();
        let row = |(x, c): (&[f64], &[f32])| {
            let r = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / width as f64 + 1e-5).sqrt();
            (0..width).map(|j| f64::from(c[j]) * x[j] * r * w[j]).sum::<f64>()
        };
        x.chunks(width).zip(c.chunks(width)).map(row).sum()
    }

    fn derivative(f: impl Fn(&[f64]) -> f64, at: &[f64]) -> Vec<f64> {
        let mut point = at.to_vec();
        (0..at.len())
            .map(|i| {
                let step = 1e-6;
                point[i] = at[i] + step;
                let up = f(&point);
                point[i] = at[i] - step;
                let down = f(&point);
                point[i] = at[i];
                (up - down) / (2.0 * step)
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn values_and_gradients_are_those_of_the_formula(rows in 1usize..70, width in 2usize..40, seed in any::<u32>()) {
            let mut random = random(seed);
            let mut draw = |n: usize| -> Vec<f32> { (0..n).map(|_| random() * 2.0).collect() };
            let (x, w, c) = (draw(rows * width), draw(width), draw(rows * width));
            let (mut out, mut dx, mut dw) = (vec![0.0; rows * width], vec![0.0; rows * width], vec![0.0; width]);
            forward(&x, &w, 1e-5, &mut out);
            backward(&x, &w, 1e-5, &c, &mut dx, &mut dw);
            let [x, w] = [&x, &w].map(|values| values.iter().map(|&value| f64::from(value)).collect::<Vec<f64>>());
            // The objective is linear in the cotangent: its parts for unit cotangents are the values.
            let total: f64 = out.iter().zip(&c).map(|(out, c)| f64::from(*out) * f64::from(*c)).sum();
            prop_assert!((total - objective(&x, &w, &c)).abs() < 1e-5 * (rows * width) as f64);
            assert_close(&dx, &derivative(|x| objective(x, &w, &c), &x), 2e-5);
            assert_close(&dw, &derivative(|w| objective(&x, w, &c), &w), 2e-5);
        }
    }
}
