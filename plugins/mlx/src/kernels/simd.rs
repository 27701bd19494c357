//! Sixteen f32 as registers of one instruction set, for the few loops that LLVM does not vectorise well on its own.
//!
//! The types are tokens: only `multiversion!` names them, inside functions that are compiled for their features and run after
//! these have been detected. That is what makes the intrinsics below sound.

use super::isa::LANES;

/// An instruction set.
pub trait Simd: Copy {
    /// Has it a fused multiply-add? Without one, `f32::mul_add` is a library call.
    const FMA: bool;
    /// [`LANES`] values.
    type Vector: Copy;
    /// `value` in every lane.
    fn splat(value: f32) -> Self::Vector;
    /// Reads every lane.
    fn load(from: &[f32; LANES]) -> Self::Vector;
    /// Writes every lane.
    fn store(vector: Self::Vector, to: &mut [f32; LANES]);
    /// a · b + c.
    fn madd(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
}

/// Implements [`Simd`] by the intrinsics of one register type.
macro_rules! simd {
    ($(#[$meta:meta])* $name:ident, fma: $fma:expr, [$register:ty; $count:expr],
     $splat:expr, $load:expr, $store:expr, $madd:expr) => {
        $(#[$meta])*
        #[derive(Clone, Copy)]
        pub struct $name;

        impl Simd for $name {
            const FMA: bool = $fma;
            type Vector = [$register; $count];

            #[inline(always)]
            fn splat(value: f32) -> Self::Vector {
                // SAFETY: the features are there (see the module's comment).
                unsafe { [$splat(value); $count] }
            }

            #[inline(always)]
            fn load(from: &[f32; LANES]) -> Self::Vector {
                let from = from.as_chunks::<{ LANES / $count }>().0;
                // SAFETY: the features are there, and each chunk is as long as a register.
                std::array::from_fn(|i| unsafe { $load(from[i].as_ptr()) })
            }

            #[inline(always)]
            fn store(vector: Self::Vector, to: &mut [f32; LANES]) {
                for (to, register) in to.as_chunks_mut::<{ LANES / $count }>().0.iter_mut().zip(vector) {
                    // SAFETY: the features are there, and each chunk is as long as a register.
                    unsafe { $store(to.as_mut_ptr(), register) }
                }
            }

            #[inline(always)]
            fn madd(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
                // SAFETY: the features are there.
                std::array::from_fn(|i| unsafe { $madd(a[i], b[i], c[i]) })
            }
        }
    };
}

/// Asks for the numbers that begin here, which are written soon, to be in the cache by then.
#[inline(always)]
pub fn prefetch(numbers: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        for line in numbers.chunks(LANES) {
            // SAFETY: SSE is there on every x86-64, and nothing is read.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = numbers;
}

/// Four rows of four numbers, transposed.
#[inline(always)]
pub fn transpose(rows: [[f32; 4]; 4]) -> [[f32; 4]; 4] {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{
            _mm_loadu_ps, _mm_movehl_ps, _mm_movelh_ps, _mm_storeu_ps, _mm_unpackhi_ps, _mm_unpacklo_ps,
        };
        let mut columns = [[0.0; 4]; 4];
        // SAFETY: SSE is there on every x86-64, and each row and column has four numbers.
        unsafe {
            let [a, b, c, d] = rows.map(|row| _mm_loadu_ps(row.as_ptr()));
            let (ab, ab_high) = (_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
            let (cd, cd_high) = (_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
            _mm_storeu_ps(columns[0].as_mut_ptr(), _mm_movelh_ps(ab, cd));
            _mm_storeu_ps(columns[1].as_mut_ptr(), _mm_movehl_ps(cd, ab));
            _mm_storeu_ps(columns[2].as_mut_ptr(), _mm_movelh_ps(ab_high, cd_high));
            _mm_storeu_ps(columns[3].as_mut_ptr(), _mm_movehl_ps(cd_high, ab_high));
        }
        columns
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        std::array::from_fn(|column| std::array::from_fn(|row| rows[row][column]))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{LANES, Simd};
    use std::arch::x86_64::*;

    simd!(
        /// AVX-512: one register.
        Avx512, fma: true, [__m512; 1], _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_fmadd_ps
    );
    simd!(
        /// AVX2 and FMA: two registers.
        Avx2, fma: true, [__m256; 2], _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_fmadd_ps
    );
    simd!(
        /// SSE2, which every x86-64 has: four registers.
        Sse2, fma: false, [__m128; 4], _mm_set1_ps, _mm_loadu_ps, _mm_storeu_ps, |a, b, c| _mm_add_ps(_mm_mul_ps(a, b), c)
    );
}
#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512, Sse2 as Baseline};

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::{LANES, Simd};
    use std::arch::aarch64::*;

    simd!(
        /// NEON, which every aarch64 has: four registers.
        Neon, fma: true, [float32x4_t; 4], vdupq_n_f32, vld1q_f32, vst1q_f32, |a, b, c| vfmaq_f32(c, a, b)
    );
}
#[cfg(target_arch = "aarch64")]
pub use arm::Neon as Baseline;

/// Rows of 2 · `LANES` accumulators that the baseline's registers hold: 16 of 32 on aarch64, 8 of 16 with SSE2.
pub const BASELINE_ROWS: usize = if cfg!(target_arch = "aarch64") { 2 } else { 1 };

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub use Plain as Baseline;

/// Any machine: sixteen numbers.
#[cfg(any(test, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
#[derive(Clone, Copy)]
pub struct Plain;

#[cfg(any(test, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
impl Simd for Plain {
    const FMA: bool = false;
    type Vector = [f32; LANES];

    fn splat(value: f32) -> Self::Vector {
        [value; LANES]
    }

    fn load(from: &[f32; LANES]) -> Self::Vector {
        *from
    }

    fn store(vector: Self::Vector, to: &mut [f32; LANES]) {
        *to = vector;
    }

    fn madd(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
}
