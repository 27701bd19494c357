//! Rotary position embedding in Llama's half-rotation form: feature i is paired with feature i + half (Su et al., 2021; transformers' `rotate_half`).
//!
//! Frequencies come as data, so every scaling rule (Llama 3, linear, YaRN) is a matter of the table, not of the kernel.

use super::half::Element;
use super::isa::{Simd, multiversion};
use super::{View4, pool};

/// Positions per task.
const ROWS: usize = 16;

/// The angles of every position: cosine and sine, each [rows, half], row-major.
#[derive(Clone, Copy)]
pub struct Tables<'a> {
    /// Cosines.
    pub cos: &'a [f32],
    /// Sines.
    pub sin: &'a [f32],
    /// Rotated feature pairs; features from 2·half on pass through unchanged.
    pub half: usize,
    /// `true`: row (batch · positions + position). `false`: all batches share row (position).
    pub per_batch: bool,
}

/// `cos[r, i] = factor · cos(positions[r] · inv_freq[i])`, `sin` likewise, the angle in f32 as transformers computes it.
pub fn tables(positions: &[i32], inv_freq: &[f32], factor: f32, cos: &mut [f32], sin: &mut [f32]) {
    let half = inv_freq.len();
    let tasks = positions.chunks(64).zip(cos.chunks_mut(64 * half).zip(sin.chunks_mut(64 * half)));
    pool::run(tasks.collect(), |(positions, (cos, sin))| {
        for (&position, (cos, sin)) in positions.iter().zip(cos.chunks_mut(half).zip(sin.chunks_mut(half))) {
            for ((cos, sin), frequency) in cos.iter_mut().zip(sin).zip(inv_freq) {
                let (s, c) = (position as f32 * frequency).sin_cos();
                (*cos, *sin) = (c * factor, s * factor);
            }
        }
    });
}

/// Rotates `x` [B, H, T, D] into `out`, which is laid out as [B, T, H, D]. `inverse` rotates back: the gradient of the rotation.
pub fn rotate<E: Element>(x: View4<'_, E>, tables: Tables<'_>, inverse: bool, out: &mut [E]) {
    let [_, heads, positions, width] = x.shape();
    if out.is_empty() {
        return;
    }
    let half = tables.half;
    let sign = if inverse { -1.0 } else { 1.0 };
    pool::run(out.chunks_mut(ROWS * heads * width).enumerate().collect(), |(number, out)| {
        let mut features = vec![0.0; width];
        for (i, out) in out.chunks_mut(heads * width).enumerate() {
            let (batch, position) = ((number * ROWS + i) / positions, (number * ROWS + i) % positions);
            let row = if tables.per_batch { batch * positions + position } else { position };
            let (cos, sin) = (&tables.cos[row * half..][..half], &tables.sin[row * half..][..half]);
            for (head, out) in out.chunks_mut(width).enumerate() {
                x.read_row(batch, head, position, &mut features);
                rotate_row(&mut features, cos, sin, sign);
                out.iter_mut().zip(&features).for_each(|(out, feature)| *out = E::nearest(*feature));
            }
        }
    });
}

multiversion! {
    fn rotate_row(features: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) = rotate_body;
}

#[inline(always)]
fn rotate_body<S: Simd, const ROWS: usize>(features: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
    let (first, second) = features.split_at_mut(cos.len());
    for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(cos.iter().zip(sin)) {
        let (x, y, sin) = (*a, *b, sin * sign);
        *a = x * cos - y * sin;
        *b = y * cos + x * sin;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::{assert_close, random};

    fn rotated(x: &[f32], shape: [usize; 4], per_batch: bool, inverse: bool) -> (Vec<f32>, Vec<f64>) {
        let [b, h, t, d] = shape;
        let half = d / 2 - 1;
        let positions: Vec<i32> = (0..if per_batch { b * t } else { t }).map(|i| (i * 3 % 41) as i32).collect();
        let inv_freq: Vec<f32> = (0..half).map(|i| 100f32.powf(-(i as f32) / half as f32)).collect();
        let (mut cos, mut sin) = (vec![0.0; positions.len() * half], vec![0.0; positions.len() * half]);
        tables(&positions, &inv_freq, 1.25, &mut cos, &mut sin);
        let mut out = vec![0.0; x.len()];
        rotate(View4::contiguous(x, shape), Tables { cos: &cos, sin: &sin, half, per_batch }, inverse, &mut out);
        let mut want = Vec::new();
        for (b, t) in (0..b).flat_map(|b| (0..t).map(move |t| (b, t))) {
            for head in 0..h {
                let at = |i: usize| f64::from(x[((b * h + head) * shape[2] + t) * d + i]);
                let position = f64::from(positions[if per_batch { b * shape[2] + t } else { t }]);
                want.extend((0..d).map(|i| {
                    if i >= 2 * half {
                        return at(i);
                    }
                    let angle = position * f64::from(inv_freq[i % half]) * if inverse { -1.0 } else { 1.0 };
                    let partner = if i < half { -at(i + half) } else { at(i - half) };
                    1.25 * (at(i) * angle.cos() + partner * angle.sin())
                }));
            }
        }
        (out, want)
    }

    #[test]
    fn rotates_pairs_half_a_head_apart_and_passes_the_rest_through() {
        let mut random = random(1);
        for shape in [[2, 3, 5, 8], [1, 1, 1, 6], [3, 2, 40, 32]] {
            let x: Vec<f32> = (0..shape.iter().product()).map(|_| random()).collect();
            for (per_batch, inverse) in [(false, false), (true, false), (true, true)] {
                let (got, want) = rotated(&x, shape, per_batch, inverse);
                assert_close(&got, &want, 1e-6);
            }
        }
    }
}
