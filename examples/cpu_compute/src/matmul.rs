//! Matrix products, in tiles that stay in registers and blocks that stay in the cache.
//!
//! An element of the result is a sum of products in f32, in blocks of [`DEPTH`] which are added: always in the same order, so that
//! neither the processor nor the number of threads changes a bit.

use mdt_plugin_api::TensorType;

use crate::array::Array;
use crate::walk::{broadcast, runs};

/// A tile of the result: rows and columns.
const ROWS: usize = 4;
const COLUMNS: usize = 16;
/// How many products are summed before the sum is added to the result.
const DEPTH: usize = 256;
/// Multiplications for which starting threads is worth it.
const THREAD_WORK: usize = 1 << 20;

/// `a · b` of the last two axes.
pub fn matmul(a: &Array, b: &Array, to: &TensorType, threads: usize) -> Array {
    let (a, b) = (a.cast(to.dtype), b.cast(to.dtype));
    let (a_batches, &[rows, depth]) = a.shape.split_last_chunk().expect("inferred");
    let (b_batches, &[_, columns]) = b.shape.split_last_chunk().expect("inferred");
    let batches = &to.shape[..to.shape.len() - 2];
    let strides = [broadcast(a_batches, batches), broadcast(b_batches, batches)];
    let (a, b) = (a.read::<f32>(), b.read::<f32>());
    Array::build(to, |out| {
        if out.is_empty() || depth == 0 {
            return;
        }
        let mut matrices = out.chunks_exact_mut(rows * columns);
        runs(batches, [&strides[0], &strides[1]], |count, [i, j], [a_step, b_step]| {
            for (n, out) in (0..count).zip(&mut matrices) {
                let a = &a[(i + n * a_step) * rows * depth..][..rows * depth];
                let b = &b[(j + n * b_step) * depth * columns..][..depth * columns];
                shared_product(a, b, out, [depth, columns], threads);
            }
        });
    })
}

/// Adds `a [rows, depth] · b [depth, columns]` to `out`; each thread has a part of the rows.
fn shared_product(a: &[f32], b: &[f32], out: &mut [f32], [depth, columns]: [usize; 2], threads: usize) {
    if threads == 1 || out.len() * depth < THREAD_WORK {
        return product(a, b, out, [depth, columns]);
    }
    let share = (out.len() / columns).div_ceil(threads);
    std::thread::scope(|scope| {
        for (a, out) in a.chunks(share * depth).zip(out.chunks_mut(share * columns)) {
            scope.spawn(move || product(a, b, out, [depth, columns]));
        }
    });
}

/// The same on this thread.
fn product(a: &[f32], b: &[f32], out: &mut [f32], lengths: [usize; 2]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        #[target_feature(enable = "avx2")]
        fn with_avx2(a: &[f32], b: &[f32], out: &mut [f32], lengths: [usize; 2]) {
            blocks(a, b, out, lengths);
        }
        // SAFETY: this processor has AVX2.
        return unsafe { with_avx2(a, b, out, lengths) };
    }
    blocks(a, b, out, lengths);
}

#[inline(always)]
fn blocks(a: &[f32], b: &[f32], out: &mut [f32], [depth, columns]: [usize; 2]) {
    let panels = columns.div_ceil(COLUMNS);
    let mut packed_b = vec![[0.0; COLUMNS]; panels * DEPTH.min(depth)];
    let mut packed_a = [[0.0; ROWS]; DEPTH];
    for start in (0..depth).step_by(DEPTH) {
        let block = DEPTH.min(depth - start);
        for (n, row) in packed_b[..panels * block].iter_mut().enumerate() {
            let column = n / block * COLUMNS;
            let width = COLUMNS.min(columns - column);
            row[..width].copy_from_slice(&b[(start + n % block) * columns + column..][..width]);
        }
        for (out, a) in out.chunks_mut(ROWS * columns).zip(a.chunks(ROWS * depth)) {
            for (row, a) in a.chunks_exact(depth).enumerate() {
                packed_a.iter_mut().zip(&a[start..start + block]).for_each(|(packed, &a)| packed[row] = a);
            }
            for (panel, b) in packed_b.chunks_exact(block).take(panels).enumerate() {
                let mut sums = [[0.0; COLUMNS]; ROWS];
                for (a, b) in packed_a.iter().zip(b) {
                    for (sums, a) in sums.iter_mut().zip(a) {
                        sums.iter_mut().zip(b).for_each(|(sum, b)| *sum += a * b);
                    }
                }
                for (out, sums) in out.chunks_exact_mut(columns).zip(&sums) {
                    out[panel * COLUMNS..].iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
                }
            }
        }
    }
}
