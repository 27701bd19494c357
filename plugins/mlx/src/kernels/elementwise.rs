//! Element-wise addition on all threads, for residual streams.

use super::isa::{Simd, multiversion};
use super::pool;

/// Elements per task: 64 KiB of each operand.
const BLOCK: usize = 16 * 1024;

/// `out = a + b`.
pub fn add(a: &[f32], b: &[f32], out: &mut [f32]) {
    let tasks = a.chunks(BLOCK).zip(b.chunks(BLOCK)).zip(out.chunks_mut(BLOCK));
    pool::run(tasks.collect(), |((a, b), out)| add_block(a, b, out));
}

multiversion! {
    fn add_block(a: &[f32], b: &[f32], out: &mut [f32]) = add_body;
}

#[inline(always)]
fn add_body<S: Simd, const ROWS: usize>(a: &[f32], b: &[f32], out: &mut [f32]) {
    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
        *out = a + b;
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn adds_across_block_boundaries() {
        let a: Vec<f32> = (0..40_001).map(|i| i as f32).collect();
        let mut out = vec![0.0; a.len()];
        super::add(&a, &a, &mut out);
        assert!(out.iter().zip(&a).all(|(out, a)| *out == 2.0 * a));
    }
}
