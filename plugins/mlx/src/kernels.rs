//! f32 kernels for the CPU: SIMD by multiversioning, threads by a pool, and sums in a fixed order.
//!
//! Every kernel cuts its work into blocks whose size depends on the shapes alone, and folds partial sums in block order.
//! So its bits do not depend on the number of threads. They do depend on whether the machine has fused multiply-add
//! (x86-64 with AVX2 and FMA, and aarch64, have it; the plain fallback rounds twice), but not on the vector width.
//!
//! The kernels know nothing of MLX: slices in, slices out. The `ffi` module hands them the memory of MLX arrays.

pub mod attention;
pub mod cross_entropy;
pub mod elementwise;
pub mod embedding;
pub mod ffi;
mod isa;
mod layout;
mod microkernel;
pub mod pool;
pub mod rms_norm;
pub mod rope;
mod simd;
pub mod swiglu;

pub use layout::View4;

#[cfg(test)]
mod tests {
    //! What the tests of all kernels share.

    /// A stream of values in [−1, 1), the same for the same seed.
    pub fn random(seed: u32) -> impl FnMut() -> f32 {
        let mut state = u64::from(seed) ^ 0x9e37_79b9_7f4a_7c15;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        }
    }

    /// Panics unless ‖got − want‖ ≤ tolerance · ‖want‖, with a floor for a reference that is zero.
    pub fn assert_close(got: &[f32], want: &[f64], tolerance: f64) {
        assert_eq!(got.len(), want.len());
        let error = got.iter().zip(want).map(|(&g, &w)| (f64::from(g) - w).powi(2)).sum::<f64>().sqrt();
        let norm = want.iter().map(|w| w * w).sum::<f64>().sqrt().max(1e-6);
        assert!(error <= tolerance * norm, "relative error {} > {tolerance}", error / norm);
    }
}
