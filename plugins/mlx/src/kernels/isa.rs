//! Which vector instructions this machine has, the macro that compiles a kernel for each, and the scalar building blocks.
//!
//! A kernel body is an `#[inline(always)]` function over an instruction set `S: Simd`, written as loops that LLVM turns into
//! vectors; only the micro-kernels, whose accumulators must stay in registers, use `S`'s vectors by name.
//! `multiversion!` instantiates it under `#[target_feature]` once per instruction set and picks at run time.

#[cfg(target_arch = "x86_64")]
use std::sync::OnceLock;

pub use super::simd::Simd;

/// Width of the inner loops: one AVX-512 register, two of AVX2, four of NEON or SSE.
pub const LANES: usize = 16;

/// Instruction sets that kernels are compiled for on x86-64. Other targets have one each.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 F, VL, BW and DQ.
    Avx512,
    /// AVX2 and FMA.
    Avx2,
    /// SSE2, which every x86-64 has.
    Baseline,
}

/// The environment variable that lowers [`isa`]. (Not `MDT_…`: the host reads those as configuration keys.)
#[cfg(target_arch = "x86_64")]
pub const LOWERED_BY: &str = "MLX_PLUGIN_ISA";

/// The best instruction set of this machine, found once. `MLX_PLUGIN_ISA=avx2|baseline` lowers it, for tests and reports.
#[cfg(target_arch = "x86_64")]
pub fn isa() -> Isa {
    static ISA: OnceLock<Isa> = OnceLock::new();
    *ISA.get_or_init(|| {
        let best = detect();
        match std::env::var(LOWERED_BY).as_deref() {
            Ok("baseline") => Isa::Baseline,
            Ok("avx2") if best == Isa::Avx512 => Isa::Avx2,
            _ => best,
        }
    })
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Isa {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq");
    match (avx2, avx512) {
        (true, true) => Isa::Avx512,
        (true, false) => Isa::Avx2,
        _ => Isa::Baseline,
    }
}

/// Defines `fn name(args)`, which runs `body::<S, ROWS>(args)` compiled for the best instruction set `S` of the machine.
/// `ROWS` is how many rows of 2 · `LANES` accumulators fit into the registers of that set.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) = $body:ident;) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[allow(clippy::too_many_arguments)]
                #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
                fn avx512($($arg: $ty),*) {
                    $body::<$crate::kernels::simd::Avx512, 8>($($arg),*)
                }
                #[allow(clippy::too_many_arguments)]
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) {
                    $body::<$crate::kernels::simd::Avx2, 2>($($arg),*)
                }
                match $crate::kernels::isa::isa() {
                    // SAFETY: `isa` says so only after detecting each of these features on this machine.
                    $crate::kernels::isa::Isa::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::kernels::isa::Isa::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::kernels::isa::Isa::Baseline => {}
                }
            }
            $body::<$crate::kernels::simd::Baseline, { $crate::kernels::simd::BASELINE_ROWS }>($($arg),*)
        }
    };
}
pub(crate) use multiversion;

/// `a · b + c`, fused where the instruction set has it.
#[inline(always)]
pub fn madd<S: Simd>(a: f32, b: f32, c: f32) -> f32 {
    if S::FMA { a.mul_add(b, c) } else { a * b + c }
}

/// The larger one; NaN in `a` is dropped, NaN in `b` too. Compiles to one instruction, unlike `f32::max`.
#[inline(always)]
pub fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// Adds up the lanes in a fixed tree order.
#[inline(always)]
pub fn fold(lanes: [f32; LANES]) -> f32 {
    let mut sum = lanes;
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            sum[i] += sum[i + width];
        }
        width /= 2;
    }
    sum[0]
}

/// e^x within 2 ulp; exactly 0 below −87.3 (where the result would be subnormal), +∞ above 88.37 (where 2ⁿ would be), NaN for NaN.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2, e^r by Cephes' degree-5 polynomial, 2^n by adding n to the exponent bits.
/// Adding 1.5·2²³ rounds to an integer and leaves that integer in the low bits, so no conversion is needed.
#[inline(always)]
pub fn exp<S: Simd>(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let in_range = x <= 88.37;
    let capped = if in_range { x } else { 88.37 };
    let shifted = madd::<S>(capped, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = madd::<S>(n, -LN2_HIGH, capped);
    let r = madd::<S>(n, -LN2_LOW, r);
    let mut p = 1.987_569_1e-4;
    p = madd::<S>(p, r, 1.398_199_9e-3);
    p = madd::<S>(p, r, 8.333_452e-3);
    p = madd::<S>(p, r, 4.166_579_6e-2);
    p = madd::<S>(p, r, 1.666_666_5e-1);
    p = madd::<S>(p, r, 0.5);
    p = madd::<S>(p, r * r, r) + 1.0;
    let value = f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23));
    // Above the range +∞; NaN, which compares false, stays NaN.
    let value = if in_range { value } else { x + f32::INFINITY };
    if x < -87.3 { 0.0 } else { value }
}

/// The hyperbolic tangent within 4 ulp: Cephes' polynomial below 0.625, 1 − 2 / (e^2x + 1) above.
#[inline(always)]
pub fn tanh<S: Simd>(x: f32) -> f32 {
    let size = x.abs();
    let square = x * x;
    let mut p = -5.704_988_7e-3;
    p = madd::<S>(p, square, 2.063_908_8e-2);
    p = madd::<S>(p, square, -5.373_971_5e-2);
    p = madd::<S>(p, square, 1.333_144_2e-1);
    p = madd::<S>(p, square, -3.333_328e-1);
    let near = madd::<S>(p * square, x, x);
    let far = 1.0 - 2.0 / (exp::<S>(2.0 * size) + 1.0);
    // NaN compares false, and e^NaN is NaN.
    if size < 0.625 { near } else { far.copysign(x) }
}

/// 1 / (1 + e^−x).
#[inline(always)]
pub fn sigmoid<S: Simd>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<S>(-x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::simd::Plain;
    use crate::kernels::tests::nans;

    #[derive(Clone, Copy)]
    struct Fused;
    impl Simd for Fused {
        const FMA: bool = true;
        type Vector = <Plain as Simd>::Vector;
        fn splat(value: f32) -> Self::Vector {
            Plain::splat(value)
        }
        fn load(from: &[f32; LANES]) -> Self::Vector {
            Plain::load(from)
        }
        fn store(vector: Self::Vector, to: &mut [f32; LANES]) {
            Plain::store(vector, to);
        }
        fn madd(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
            Plain::madd(a, b, c)
        }
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for step in -873_000..=883_700 {
            let x = step as f32 * 1e-4;
            let exact = f64::from(x).exp();
            for got in [exp::<Fused>(x), exp::<Plain>(x)] {
                let ulp = f64::from((exact as f32).next_up() - exact as f32);
                let error = (f64::from(got) - exact).abs() / ulp;
                assert!(error <= 2.0, "exp({x}) = {got}, {error} ulp off");
            }
        }
    }

    #[test]
    fn tanh_is_within_four_units_in_the_last_place() {
        for step in -120_000..=120_000 {
            let x = step as f32 * 1e-4;
            let exact = f64::from(x).tanh();
            for got in [tanh::<Fused>(x), tanh::<Plain>(x)] {
                let ulp = f64::from((exact.abs() as f32).next_up() - exact.abs() as f32);
                let error = (f64::from(got) - exact).abs() / ulp;
                assert!(error <= 4.0, "tanh({x}) = {got}, {error} ulp off");
            }
        }
        assert_eq!([f32::INFINITY, -1e30, 0.0].map(tanh::<Fused>), [1.0, -1.0, 0.0]);
    }

    #[test]
    fn exp_keeps_its_special_values() {
        assert_eq!(exp::<Fused>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp::<Fused>(-1e30), 0.0);
        assert_eq!(exp::<Fused>(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp::<Fused>(0.0), 1.0);
    }

    #[test]
    fn exp_of_every_nan_is_nan() {
        for nan in nans() {
            assert!(exp::<Fused>(nan).is_nan() && exp::<Plain>(nan).is_nan(), "{:#010x}", nan.to_bits());
            assert!(sigmoid::<Fused>(nan).is_nan() && sigmoid::<Plain>(nan).is_nan(), "{:#010x}", nan.to_bits());
            assert!(tanh::<Fused>(nan).is_nan() && tanh::<Plain>(nan).is_nan(), "{:#010x}", nan.to_bits());
        }
    }
}
