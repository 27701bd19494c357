//! f32 kernels for the CPU: SIMD by multiversioning, threads by a pool, and sums in a fixed order.
//!
//! Every kernel splits its work into blocks whose size depends on the shapes only, and folds partial sums in block order.
//! So its bits do not depend on the number of threads. They do depend on whether the machine has fused multiply-add
//! (x86-64 with AVX2 and FMA, and aarch64, have it; the plain fallback rounds twice), but not on the vector width.
//!
//! The kernels do not use MLX: they take and fill slices. The `ffi` module gives them the memory of MLX arrays.

pub mod add;
pub mod attention;
pub mod cross_entropy;
pub mod embedding;
pub mod few_rows;
pub mod ffi;
pub mod functions;
pub mod half;
pub(crate) mod isa;
mod layout;
mod microkernel;
pub mod pool;
pub mod product;
pub mod quantized;
pub mod rms_norm;
pub mod rope;
mod simd;
pub mod sum;
pub mod swiglu;
pub mod token_losses;

pub use layout::View4;

#[cfg(test)]
pub(crate) mod tests {
    //! What the tests of all kernels share, and the promises that hold for all of them.

    use super::{attention, cross_entropy, pool, product, quantized, rms_norm, swiglu};

    /// A stream of values in [−1, 1), the same for the same seed.
    pub fn random(seed: u32) -> impl FnMut() -> f32 {
        let mut state = u64::from(seed) ^ 0x9e37_79b9_7f4a_7c15;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        }
    }

    /// NaN of both signs, quiet and signalling, with every payload of one bit and a thousand others.
    pub fn nans() -> Vec<f32> {
        let payloads = (0..23).map(|bit| 1 << bit).chain((1..1 << 23).step_by(8191));
        payloads.flat_map(|payload| [0x7f80_0000, 0xff80_0000].map(|sign| f32::from_bits(sign | payload))).collect()
    }

    /// Panics unless ‖got − want‖ ≤ tolerance · ‖want‖, with a floor for a reference that is zero.
    pub fn assert_close(got: &[f32], want: &[f64], tolerance: f64) {
        assert_close_above(got, want, 1e-6, tolerance);
    }

    /// The same with a floor for ‖want‖: results whose terms cancel are as exact as the terms are.
    pub fn assert_close_above(got: &[f32], want: &[f64], floor: f64, tolerance: f64) {
        assert_eq!(got.len(), want.len());
        let error = got.iter().zip(want).map(|(&g, &w)| (f64::from(g) - w).powi(2)).sum::<f64>().sqrt();
        let norm = norm(want).max(floor);
        assert!(error <= tolerance * norm, "relative error {} > {tolerance}", error / norm);
    }

    /// ‖values‖.
    pub fn norm(values: &[f64]) -> f64 {
        values.iter().map(|value| value * value).sum::<f64>().sqrt()
    }

    /// A hash of the results of several kernels on this machine.
    fn digest() -> u64 {
        let mut random = random(11);
        let mut draw = |n: usize| -> Vec<f32> { (0..n).map(|_| random() * 3.0).collect() };
        let (x, w, c) = (draw(130 * 77), draw(77), draw(130 * 77));
        let (mut a, mut b, mut d) = (draw(130 * 77), draw(130 * 77), draw(77));
        let mut results: Vec<f32> = Vec::new();
        swiglu::backward(&x, &c, &c, &mut a, &mut b);
        results.extend(a.iter().chain(&b));
        rms_norm::backward(&x, &w, 1e-5, &c, &mut a, &mut d);
        results.extend(a.iter().chain(&d));
        let (mut losses, mut lse) = (draw(130), draw(130));
        cross_entropy::forward(&x, &[5; 130], &mut losses, &mut lse);
        results.extend(&losses);
        results.extend(quantized::tests::example());
        results.extend(product::tests::example());
        let attended = attention::tests::example();
        results.extend(attended.iter().flatten());
        results
            .iter()
            .fold(0xcbf2_9ce4_8422_2325, |hash, x| (hash ^ u64::from(x.to_bits())).wrapping_mul(0x0100_0000_01b3))
    }

    #[test]
    fn no_kernel_turns_a_nan_into_a_number() {
        let nans = nans();
        let rows = nans.len();
        let ones = vec![1.0; rows];
        let (mut a, mut b) = (vec![0.0; rows], vec![0.0; rows]);
        swiglu::forward(&nans, &ones, &mut a);
        assert!(a.iter().all(|value| value.is_nan()), "swiglu");
        swiglu::backward(&nans, &ones, &ones, &mut a, &mut b);
        assert!(a.iter().chain(&b).all(|value| value.is_nan()), "gradients of swiglu");

        // One NaN in each row of 40 logits, at any place.
        let mut logits = vec![0.5; rows * 40];
        nans.iter().enumerate().for_each(|(row, &nan)| logits[row * 40 + row % 40] = nan);
        cross_entropy::forward(&logits, &vec![7; rows], &mut a, &mut b);
        assert!(a.iter().chain(&b).all(|value| value.is_nan()), "cross-entropy");
        let mut gradient = vec![0.0; rows * 40];
        cross_entropy::backward(&logits, &vec![7; rows], &b, &ones, &mut gradient);
        assert!(gradient.iter().all(|value| value.is_nan()), "gradient of cross-entropy");

        let mut gradient = vec![0.0; rows * 40];
        rms_norm::forward(&logits, &[1.0; 40], 1e-5, &mut gradient);
        assert!(gradient.iter().all(|value| value.is_nan()), "rms_norm");

        for &nan in nans.iter().step_by(97) {
            assert!(attention::tests::with_a_query_of(nan).iter().all(|value| value.is_nan()), "attention");
        }
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        let digests = [1, 2, 3, 7].map(|threads| {
            pool::set_threads(threads);
            digest()
        });
        pool::set_threads(0);
        assert_eq!(digests, [digests[0]; 4]);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn every_instruction_set_passes_the_same_tests_and_vector_width_changes_no_bit() {
        let run = |isa: &str, arguments: &[&str]| {
            let mut command = std::process::Command::new(std::env::current_exe().unwrap());
            let test = command.args(arguments).env(super::isa::LOWERED_BY, isa).output().unwrap();
            let output = String::from_utf8_lossy(&test.stdout).into_owned();
            assert!(test.status.success(), "{isa}: {output}");
            output
        };
        for isa in ["avx2", "baseline"] {
            run(isa, &["kernels::", "--skip", "every_instruction_set"]);
            // Without the instructions that some processors have for them.
            run(isa, &["products_of_rounded_operands"]);
        }
        let digest = |isa| {
            let output = run(isa, &["kernels::tests::prints_the_digest", "--exact", "--ignored", "--nocapture"]);
            output.lines().find_map(|line| line.strip_prefix("digest ")).expect("a digest").to_owned()
        };
        assert_eq!(digest("best"), digest("avx2"));
    }

    #[test]
    #[ignore = "run by another test, in a process of its own"]
    fn prints_the_digest() {
        println!("\ndigest {}", digest());
    }
}
