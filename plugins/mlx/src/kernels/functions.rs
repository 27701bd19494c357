//! Functions of each element that MLX's own kernels for x86-64 compute slowly, or too coarsely.

use super::isa::{Simd, exp, larger, multiversion, sigmoid};
use super::pool;

/// Elements per task.
const BLOCK: usize = 16 * 1024;

fn each(x: &[f32], out: &mut [f32], body: impl Fn(&[f32], &mut [f32]) + Sync) {
    pool::run(x.chunks(BLOCK).zip(out.chunks_mut(BLOCK)).collect(), |(x, out)| body(x, out));
}

/// `out = e^x`.
pub fn exponential(x: &[f32], out: &mut [f32]) {
    each(x, out, exp_block);
}

/// `out = 1 / (1 + e^−x)`.
pub fn logistic(x: &[f32], out: &mut [f32]) {
    each(x, out, sigmoid_block);
}

/// `out = x / (1 + e^−x)`.
pub fn silu(x: &[f32], out: &mut [f32]) {
    each(x, out, silu_block);
}

/// `out = log(1 + e^x)`, without overflow.
pub fn softplus(x: &[f32], out: &mut [f32]) {
    each(x, out, |x, out| {
        softplus_block(x, out);
        for (out, &x) in out.iter_mut().zip(x) {
            *out = larger(x, 0.0) + out.ln_1p();
        }
    });
}

/// The error function, as the C library has it.
pub fn erf(x: &[f32], out: &mut [f32]) {
    unsafe extern "C" {
        safe fn erff(x: f32) -> f32;
    }
    each(x, out, |x, out| out.iter_mut().zip(x).for_each(|(out, &x)| *out = erff(x)));
}

multiversion! {
    fn exp_block(x: &[f32], out: &mut [f32]) = exp_body;
}

#[inline(always)]
fn exp_body<S: Simd, const ROWS: usize>(x: &[f32], out: &mut [f32]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = exp::<S>(x);
    }
}

multiversion! {
    fn sigmoid_block(x: &[f32], out: &mut [f32]) = sigmoid_body;
}

#[inline(always)]
fn sigmoid_body<S: Simd, const ROWS: usize>(x: &[f32], out: &mut [f32]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = sigmoid::<S>(x);
    }
}

multiversion! {
    fn silu_block(x: &[f32], out: &mut [f32]) = silu_body;
}

#[inline(always)]
fn silu_body<S: Simd, const ROWS: usize>(x: &[f32], out: &mut [f32]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = x * sigmoid::<S>(x);
    }
}

multiversion! {
    fn softplus_block(x: &[f32], out: &mut [f32]) = softplus_body;
}

/// e^−|x|.
#[inline(always)]
fn softplus_body<S: Simd, const ROWS: usize>(x: &[f32], out: &mut [f32]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = exp::<S>(-x.abs());
    }
}
