//! Half precision to f32 and back, rounded to the nearest, ties to even.

use mdt_plugin_api::half::f16;
use mdt_plugin_api::half::slice::HalfFloatSliceExt;

use super::isa::{Simd, multiversion};
use super::pool;

/// A number as it lies in memory. Kernels compute in f32.
pub trait Element: Copy + Send + Sync {
    /// It as f32.
    fn wide(self) -> f32;
    /// The nearest one.
    fn nearest(x: f32) -> Self;
}

impl Element for f32 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }

    #[inline(always)]
    fn nearest(x: f32) -> Self {
        x
    }
}

/// A bfloat16 as its bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bf16(pub u16);

impl Element for Bf16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }

    #[inline(always)]
    fn nearest(x: f32) -> Self {
        Self((rounded(x) >> 16) as u16)
    }
}

/// Elements per task.
const BLOCK: usize = 16 * 1024;

/// bfloat16 to f32.
pub fn widen_bf16(x: &[u16], out: &mut [f32]) {
    pool::run(x.chunks(BLOCK).zip(out.chunks_mut(BLOCK)).collect(), |(x, out)| widen_block(x, out));
}

/// f32 to bfloat16.
pub fn narrow_bf16(x: &[f32], out: &mut [u16]) {
    pool::run(x.chunks(BLOCK).zip(out.chunks_mut(BLOCK)).collect(), |(x, out)| narrow_block(x, out));
}

/// float16 to f32.
pub fn widen_f16(x: &[f16], out: &mut [f32]) {
    pool::run(x.chunks(BLOCK).zip(out.chunks_mut(BLOCK)).collect(), |(x, out): (&[f16], _)| {
        x.convert_to_f32_slice(out);
    });
}

/// f32 to float16.
pub fn narrow_f16(x: &[f32], out: &mut [f16]) {
    pool::run(x.chunks(BLOCK).zip(out.chunks_mut(BLOCK)).collect(), |(x, out): (_, &mut [f16])| {
        out.convert_from_f32_slice(x);
    });
}

/// f32 rounded to bfloat16, as f32.
pub fn round_bf16(x: &[f32], out: &mut [f32]) {
    pool::run(x.chunks(BLOCK).zip(out.chunks_mut(BLOCK)).collect(), |(x, out)| round_block(x, out));
}

/// f32 rounded to float16, as f32.
pub fn round_f16(x: &[f32], out: &mut [f32]) {
    pool::run(x.chunks(BLOCK).zip(out.chunks_mut(BLOCK)).collect(), |(x, out): (&[f32], &mut [f32])| {
        let mut narrow = [f16::ZERO; 512];
        for (x, out) in x.chunks(narrow.len()).zip(out.chunks_mut(narrow.len())) {
            narrow[..x.len()].convert_from_f32_slice(x);
            narrow[..x.len()].convert_to_f32_slice(out);
        }
    });
}

multiversion! {
    fn widen_block(x: &[u16], out: &mut [f32]) = widen_body;
}

#[inline(always)]
fn widen_body<S: Simd, const ROWS: usize>(x: &[u16], out: &mut [f32]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = Bf16(x).wide();
    }
}

multiversion! {
    fn narrow_block(x: &[f32], out: &mut [u16]) = narrow_body;
}

#[inline(always)]
fn narrow_body<S: Simd, const ROWS: usize>(x: &[f32], out: &mut [u16]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = Bf16::nearest(*x).0;
    }
}

multiversion! {
    fn round_block(x: &[f32], out: &mut [f32]) = round_body;
}

#[inline(always)]
fn round_body<S: Simd, const ROWS: usize>(x: &[f32], out: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = nearest_bf16(*x);
    }
}

/// The nearest number that bfloat16 has.
#[inline(always)]
pub fn nearest_bf16(x: f32) -> f32 {
    f32::from_bits(rounded(x) & 0xffff_0000)
}

/// The nearest bfloat16 in the upper half of these bits.
#[inline(always)]
fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    // Rounding would carry a NaN on to a number.
    if bits & 0x7fff_ffff > 0x7f80_0000 { bits | 0x40_0000 } else { rounded }
}

#[cfg(test)]
mod tests {
    use mdt_plugin_api::half::bf16;

    use super::*;

    #[test]
    fn every_half_comes_back_and_every_number_is_rounded_to_the_nearest() {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        let halves: Vec<f16> = all.iter().map(|&bits| f16::from_bits(bits)).collect();
        let (mut wide, mut narrow, mut narrow_f16s) = (vec![0f32; 65536], vec![0u16; 65536], vec![f16::ZERO; 65536]);
        widen_bf16(&all, &mut wide);
        narrow_bf16(&wide, &mut narrow);
        for ((&bits, &back), wide) in all.iter().zip(&narrow).zip(&wide) {
            assert!(back == bits || wide.is_nan() && bf16::from_bits(back).is_nan(), "{bits:#06x} {back:#06x}");
        }
        widen_f16(&halves, &mut wide);
        narrow_f16(&wide, &mut narrow_f16s);
        for (half, back) in halves.iter().zip(&narrow_f16s) {
            assert!(half.to_bits() == back.to_bits() || half.is_nan() && back.is_nan(), "{half:?} {back:?}");
        }
        let numbers: Vec<f32> = (0..65536u32).map(|i| f32::from_bits((i << 16) | (0x7ffe + i % 4))).collect();
        narrow_bf16(&numbers, &mut narrow);
        narrow_f16(&numbers, &mut narrow_f16s);
        for ((&number, &bits), &half) in numbers.iter().zip(&narrow).zip(&narrow_f16s) {
            let want = (bf16::from_f32(number), f16::from_f32(number));
            assert!(number.is_nan() && half.is_nan() || (bf16::from_bits(bits), half) == want, "{number}");
        }
        let (mut in_bf16, mut in_f16) = (vec![0f32; 65536], vec![0f32; 65536]);
        round_bf16(&numbers, &mut in_bf16);
        round_f16(&numbers, &mut in_f16);
        for (((&bits, half), &in_bf16), &in_f16) in narrow.iter().zip(&narrow_f16s).zip(&in_bf16).zip(&in_f16) {
            assert!(in_bf16.is_nan() && bf16::from_bits(bits).is_nan() || in_bf16 == bf16::from_bits(bits).to_f32());
            assert!(in_f16.is_nan() && half.is_nan() || in_f16 == half.to_f32());
        }
    }
}
