//! The norm of the mean gradient, and clipping by it.

use rayon::prelude::*;

/// Elements of one term of the norm. Fixed, so that its bits do not depend on the number of threads.
const CHUNK: usize = 1 << 16;

/// The global norm of `gradient / weight`, taken in f64 in a fixed order.
pub fn norm_of_mean(gradient: &[f32], weight: f64) -> f64 {
    let squares: Vec<f64> = gradient
        .par_chunks(CHUNK)
        .map(|chunk| {
            // Eight sums side by side, so that the loop is not one long chain of additions.
            let mut sums = [0.0f64; 8];
            let (blocks, rest) = chunk.as_chunks::<8>();
            for block in blocks {
                sums.iter_mut().zip(block).for_each(|(sum, &value)| *sum += f64::from(value) * f64::from(value));
            }
            sums.iter().sum::<f64>() + rest.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>()
        })
        .collect();
    squares.iter().sum::<f64>().sqrt() / weight
}

/// Divides by the weight and scales down to `max_norm` where the norm is above it (0: never). PyTorch's rule:
/// the factor is `max_norm / (norm + 1e-6)`, at most 1.
pub fn scale(gradient: &mut [f32], weight: f64, norm: f64, max_norm: f64) {
    let clip = if max_norm > 0.0 { (max_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
    let factor = (clip / weight) as f32;
    gradient.par_chunks_mut(CHUNK).for_each(|chunk| chunk.iter_mut().for_each(|value| *value *= factor));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clipping_is_of_the_mean_by_its_global_norm() {
        let mut gradient = vec![3.0, 4.0];
        let norm = norm_of_mean(&gradient, 2.0);
        assert_eq!(norm, 2.5);
        scale(&mut gradient, 2.0, norm, 1.0);
        let clipped = gradient.iter().map(|value| value * value).sum::<f32>().sqrt();
        assert!((clipped - 1.0).abs() < 1e-5, "{clipped}");
        let mut gradient = vec![3.0, 4.0];
        scale(&mut gradient, 2.0, norm, 0.0);
        assert_eq!(gradient, [1.5, 2.0]);
    }

    #[test]
    fn the_norm_is_the_same_for_any_number_of_threads() {
        let gradient: Vec<f32> = (0..300_001).map(|i| (i as f32 * 0.37).sin()).collect();
        let norm = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| norm_of_mean(&gradient, 3.0).to_bits())
        };
        assert_eq!(norm(1), norm(3));
    }
}
