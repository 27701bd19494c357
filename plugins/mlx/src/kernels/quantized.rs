//! Quantised weights: made whole, or multiplied by few rows as they are.
//!
//! A row of a weight is a row of groups, each with a scale and a bias, and a group is a row of blocks of 32 numbers, which take as
//! many words as a number has bits. A number stands for `number · scale + bias`.

use mdt_plugin_api::half::f16;
use mdt_plugin_api::half::slice::HalfFloatSliceExt;

use super::half::nearest_bf16;
use super::isa::{LANES, Simd, fold, madd, multiversion};
use super::pool;

/// Numbers of a block.
const BLOCK: usize = 32;
/// Rows of the weight per task.
const TASK: usize = 16;
/// Rows that share what is read of the weight.
const SHARED: usize = 4;

/// Scales or biases, as they are stored.
#[derive(Clone, Copy, Debug)]
pub enum Stored<'a> {
    /// float32.
    F32(&'a [f32]),
    /// float16.
    F16(&'a [f16]),
    /// bfloat16, as its bits.
    Bf16(&'a [u16]),
}

/// A quantised weight `[rows, width]`.
#[derive(Clone, Copy, Debug)]
pub struct Quantized<'a> {
    /// `[rows, width · bits / 32]`.
    pub words: &'a [u32],
    /// `[rows, width / group_size]`.
    pub scales: Stored<'a>,
    /// The same.
    pub biases: Stored<'a>,
    /// Numbers of a row.
    pub width: usize,
    /// 32, 64 or 128.
    pub group_size: usize,
    /// 2, 3, 4, 5, 6 or 8.
    pub bits: usize,
}

/// One row of a weight, with its scales and biases in f32.
struct Row<'a> {
    words: &'a [u32],
    scales: &'a [f32],
    biases: &'a [f32],
    group_size: usize,
}

/// The rows from `first` on, as many as `out` `[.., width]` holds.
pub fn dequantize(weight: &Quantized<'_>, first: usize, out: &mut [f32]) {
    if weight.width == 0 {
        return;
    }
    pool::run(out.chunks_mut(TASK * weight.width).enumerate().collect(), |(task, out)| {
        let rows = out.chunks_exact_mut(weight.width).enumerate();
        let mut buffers = Buffers::default();
        for (row, out) in rows {
            dequantize_row(weight.bits, buffers.row(weight, first + task * TASK + row), out);
        }
    });
}

/// `x · weightᵀ`: x `[N, width]`, result `[N, rows]`. Each row of the weight is read once for every four rows of x. With `rounds` its
/// elements are rounded to bfloat16 before they are multiplied.
pub fn multiply(weight: &Quantized<'_>, x: &[f32], rows: usize, rounds: bool, out: &mut [f32]) {
    let count = out.len() / rows.max(1);
    // Each task writes the products of some rows of the weight with all of x.
    let mut by_row = vec![0.0; out.len()];
    pool::run(by_row.chunks_mut((TASK * count).max(1)).enumerate().collect(), |(task, out)| {
        let mut buffers = Buffers::default();
        for (row, out) in out.chunks_exact_mut(count).enumerate() {
            multiply_row(weight.bits, buffers.row(weight, task * TASK + row), x, weight.width, rounds, out);
        }
    });
    for (row, products) in by_row.chunks_exact(count.max(1)).enumerate() {
        products.iter().enumerate().for_each(|(n, product)| out[n * rows + row] = *product);
    }
}

/// Scales and biases of one row.
#[derive(Default)]
struct Buffers {
    scales: Vec<f32>,
    biases: Vec<f32>,
}

impl Buffers {
    fn row<'a>(&'a mut self, weight: &Quantized<'a>, row: usize) -> Row<'a> {
        let (words, groups) = (weight.width / BLOCK * weight.bits, weight.width / weight.group_size);
        weight.scales.read(row * groups, groups, &mut self.scales);
        weight.biases.read(row * groups, groups, &mut self.biases);
        Row {
            words: &weight.words[row * words..][..words],
            scales: &self.scales,
            biases: &self.biases,
            group_size: weight.group_size,
        }
    }
}

impl Stored<'_> {
    fn read(&self, start: usize, count: usize, out: &mut Vec<f32>) {
        out.clear();
        match self {
            Self::F32(all) => out.extend_from_slice(&all[start..][..count]),
            Self::Bf16(all) => out.extend(all[start..][..count].iter().map(|&x| f32::from_bits(u32::from(x) << 16))),
            Self::F16(all) => {
                out.resize(count, 0.0);
                all[start..][..count].convert_to_f32_slice(out);
            }
        }
    }
}

/// Calls a function with the number of bits as a constant.
macro_rules! with_bits {
    ($bits:expr, $name:ident::<$($generic:tt),*>($($argument:expr),*)) => {
        match $bits {
            2 => $name::<$($generic,)* 2>($($argument),*),
            3 => $name::<$($generic,)* 3>($($argument),*),
            4 => $name::<$($generic,)* 4>($($argument),*),
            5 => $name::<$($generic,)* 5>($($argument),*),
            6 => $name::<$($generic,)* 6>($($argument),*),
            _ => $name::<$($generic,)* 8>($($argument),*),
        }
    };
}

multiversion! {
    fn dequantize_row(bits: usize, row: Row<'_>, out: &mut [f32]) = dequantize_body;
}

#[inline(always)]
fn dequantize_body<S: Simd, const ROWS: usize>(bits: usize, row: Row<'_>, out: &mut [f32]) {
    with_bits!(bits, dequantize_blocks::<S>(&row, out));
}

#[inline(always)]
fn dequantize_blocks<S: Simd, const BITS: usize>(row: &Row<'_>, out: &mut [f32]) {
    let groups = out.chunks_exact_mut(row.group_size).zip(row.words.chunks_exact(row.group_size / BLOCK * BITS));
    for ((out, words), (&scale, &bias)) in groups.zip(row.scales.iter().zip(row.biases)) {
        for (out, words) in out.as_chunks_mut::<BLOCK>().0.iter_mut().zip(words.as_chunks::<BITS>().0) {
            numbers(words, out);
            for number in out {
                *number = madd::<S>(*number, scale, bias);
            }
        }
    }
}

multiversion! {
    /// The products of one row of a weight with the rows of x, of `width` each.
    fn multiply_row(bits: usize, row: Row<'_>, x: &[f32], width: usize, rounds: bool, out: &mut [f32]) = multiply_body;
}

#[inline(always)]
fn multiply_body<S: Simd, const ROWS: usize>(
    bits: usize,
    row: Row<'_>,
    x: &[f32],
    width: usize,
    rounds: bool,
    out: &mut [f32],
) {
    if rounds {
        multiply_rounded_or_not::<S, true>(bits, &row, x, width, out);
    } else {
        multiply_rounded_or_not::<S, false>(bits, &row, x, width, out);
    }
}

#[inline(always)]
fn multiply_rounded_or_not<S: Simd, const ROUNDS: bool>(
    bits: usize,
    row: &Row<'_>,
    x: &[f32],
    width: usize,
    out: &mut [f32],
) {
    let (shared, single) = out.as_chunks_mut::<SHARED>();
    let (of_shared, of_single) = x.split_at(shared.len() * SHARED * width);
    for (out, x) in shared.iter_mut().zip(of_shared.chunks_exact(SHARED * width)) {
        *out = with_bits!(bits, products::<S, ROUNDS, SHARED>(row, x, width));
    }
    for (out, x) in single.iter_mut().zip(of_single.chunks_exact(width)) {
        [*out] = with_bits!(bits, products::<S, ROUNDS, 1>(row, x, width));
    }
}

/// The products of a row of a weight with `N` rows of x.
///
/// Loops over arrays only: what takes a closure is not compiled for the instruction set.
#[inline(always)]
fn products<S: Simd, const ROUNDS: bool, const N: usize, const BITS: usize>(
    row: &Row<'_>,
    x: &[f32],
    width: usize,
) -> [f32; N] {
    let mut sums = [[S::splat(0.0); BLOCK / LANES]; N];
    let mut numbers_of_block = [0.0; BLOCK];
    let groups = row.words.chunks_exact(row.group_size / BLOCK * BITS);
    let mut block = 0;
    for (words, (&scale, &bias)) in groups.zip(row.scales.iter().zip(row.biases)) {
        let (scale, bias) = (S::splat(scale), S::splat(bias));
        for words in words.as_chunks::<BITS>().0 {
            numbers(words, &mut numbers_of_block);
            for (half, numbers) in numbers_of_block.as_chunks::<LANES>().0.iter().enumerate() {
                let mut weight = S::madd(S::load(numbers), scale, bias);
                if ROUNDS {
                    let mut elements = [0.0; LANES];
                    S::store(weight, &mut elements);
                    for element in &mut elements {
                        *element = nearest_bf16(*element);
                    }
                    weight = S::load(&elements);
                }
                for n in 0..N {
                    let x = &x[n * width + block + half * LANES..].as_chunks::<LANES>().0[0];
                    sums[n][half] = S::madd(weight, S::load(x), sums[n][half]);
                }
            }
            block += BLOCK;
        }
    }
    let mut products = [0.0; N];
    for (product, sums) in products.iter_mut().zip(sums) {
        let (mut left, mut right) = ([0.0; LANES], [0.0; LANES]);
        S::store(sums[0], &mut left);
        S::store(sums[1], &mut right);
        for (left, right) in left.iter_mut().zip(right) {
            *left += right;
        }
        *product = fold(left);
    }
    products
}

/// The numbers of a block, which stand one after another from the lowest bit of the first word on.
#[inline(always)]
fn numbers<const BITS: usize>(words: &[u32; BITS], numbers: &mut [f32; BLOCK]) {
    let mask = (1 << BITS) - 1;
    for (place, eight) in numbers.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        // Eight numbers are as many bytes as a number has bits, and lie in two words.
        let (word, shift) = (place * BITS / 4, place * BITS % 4 * 8);
        let next = if word + 1 < BITS { words[word + 1] } else { 0 };
        let bits = (u64::from(words[word]) | u64::from(next) << 32) >> shift;
        for (i, number) in eight.iter_mut().enumerate() {
            // In 32 bits where all eight fit: a vector has twice as many then.
            let shifted = if BITS <= 4 { bits as u32 >> (i * BITS) } else { (bits >> (i * BITS)) as u32 };
            *number = (shifted & mask) as i32 as f32;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::kernels::tests::{assert_close_above, norm, random};

    const ROWS: usize = 37;
    const WIDTH: usize = 256;

    /// Numbers of `bits` each, and their words bit by bit.
    fn packed(bits: usize) -> (Vec<u32>, Vec<u32>) {
        let mut random = random(bits as u32);
        let numbers: Vec<u32> =
            (0..ROWS * WIDTH).map(|_| (random().abs() * 256.0) as u32 & ((1 << bits) - 1)).collect();
        let mut words = vec![0; numbers.len() / 32 * bits];
        for (place, number) in numbers.iter().enumerate() {
            for bit in 0..bits {
                let at = place * bits + bit;
                words[at / 32] |= (number >> bit & 1) << (at % 32);
            }
        }
        (numbers, words)
    }

    fn every_form(mut check: impl FnMut(&Quantized<'_>, &[f64])) {
        for (bits, group_size) in [2, 3, 4, 5, 6, 8].into_iter().flat_map(|bits| [32, 64, 128].map(|size| (bits, size)))
        {
            let (numbers, words) = packed(bits);
            let mut random = random(group_size as u32);
            // Numbers that every type holds.
            let mut draw = || -> Vec<f32> {
                (0..numbers.len() / group_size)
                    .map(|_| f32::from_bits((random() + 1.5).to_bits() & 0xfff0_0000))
                    .collect()
            };
            let (scales, biases) = (draw(), draw());
            let f16 = [&scales, &biases].map(|all| all.iter().map(|&x| f16::from_f32(x)).collect::<Vec<_>>());
            let bf16 = [&scales, &biases].map(|all| all.iter().map(|x| (x.to_bits() >> 16) as u16).collect::<Vec<_>>());
            let whole: Vec<f64> = numbers
                .iter()
                .enumerate()
                .map(|(i, &n)| f64::from(n) * f64::from(scales[i / group_size]) + f64::from(biases[i / group_size]))
                .collect();
            for (scales, biases) in [
                (Stored::F32(&scales), Stored::F32(&biases)),
                (Stored::F16(&f16[0]), Stored::F16(&f16[1])),
                (Stored::Bf16(&bf16[0]), Stored::Bf16(&bf16[1])),
            ] {
                check(&Quantized { words: &words, scales, biases, width: WIDTH, group_size, bits }, &whole);
            }
        }
    }

    /// A weight made whole, and products with it, on this machine.
    pub fn example() -> Vec<f32> {
        let mut results = Vec::new();
        every_form(|weight, _| {
            let (mut whole, mut products) = (vec![0.0; ROWS * WIDTH], vec![0.0; 5 * ROWS]);
            dequantize(weight, 0, &mut whole);
            multiply(weight, &whole[..5 * WIDTH], ROWS, false, &mut products);
            results.extend(whole.iter().chain(&products));
        });
        results
    }

    #[test]
    fn every_number_of_every_word_is_found_with_its_groups_scale_and_bias() {
        every_form(|weight, whole| {
            for first in [0, 20] {
                let mut out = vec![0.0; (ROWS - first) * WIDTH];
                dequantize(weight, first, &mut out);
                for (got, want) in out.iter().zip(&whole[first * WIDTH..]) {
                    assert!((f64::from(*got) - want).abs() <= 1e-6 * want.abs().max(1.0), "{got} {want} {weight:?}");
                }
            }
        });
    }

    #[test]
    fn products_are_those_of_the_whole_weight() {
        let mut random = random(9);
        let x: Vec<f32> = (0..7 * WIDTH).map(|_| random()).collect();
        every_form(|weight, whole| {
            for count in [1, 4, 7] {
                let x = &x[..count * WIDTH];
                let mut out = vec![0.0; count * ROWS];
                let product = |n: usize, row: usize, element: fn(f64) -> f64| -> f64 {
                    let pairs = x[n * WIDTH..].iter().zip(&whole[row * WIDTH..][..WIDTH]);
                    pairs.map(|(&x, &w)| f64::from(x) * element(w)).sum()
                };
                for (rounds, element) in [(false, (|w| w) as fn(f64) -> f64), (true, |w| nearest_bf16(w as f32).into())]
                {
                    multiply(weight, x, ROWS, rounds, &mut out);
                    let want: Vec<f64> = (0..count * ROWS).map(|i| product(i / ROWS, i % ROWS, element)).collect();
                    assert_close_above(&out, &want, norm(whole), 1e-6);
                }
            }
        });
    }
}
