//! What the component promises, tested through `Tensor` as plugin authors use it. One file per promise.

mod checkpoint;
mod element_types;
mod gradient;
mod lifetime;
mod memory;
mod setup;

pub use setup::{cpu, elements, tensor, with_config};

use crate::{Config, DeviceChoice, Mlx};

/// Values in [-1, 1), the same for the same seed.
pub fn random(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed ^ 0x9e37_79b9_7f4a_7c15;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// Panics unless ‖got − want‖ ≤ tolerance · ‖want‖.
pub fn assert_close(got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    let error = got.iter().zip(want).map(|(&g, &w)| (f64::from(g) - w).powi(2)).sum::<f64>().sqrt();
    let norm = want.iter().map(|w| w * w).sum::<f64>().sqrt().max(1e-12);
    assert!(error <= tolerance * norm, "relative error {}:\n got {got:?}\nwant {want:?}", error / norm);
}

#[test]
fn the_device_says_what_it_is() {
    let info = cpu().device();
    assert_eq!((info.kind.as_str(), info.unified_memory, info.threads), ("cpu", true, 1));
    assert!(info.library.starts_with("MLX 0.32."), "{}", info.library);
    assert!(!info.name.is_empty());
}
