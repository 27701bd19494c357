//! The norm of the mean gradient, and clipping by it.

use rayon::prelude::*;

use super::layout::CHUNK;

/// The squares of a gradient's elements, summed in f64 in a fixed order over [`CHUNK`] elements each. A sum is finite exactly
/// where all elements are: squares of f32 do not overflow in f64.
pub fn squares(gradient: &[f32]) -> Vec<f64> {
    gradient
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
        .collect()
}

/// The global norm of a gradient with these [`squares`], divided by `weight`.
pub fn norm_of_mean(squares: &[f64], weight: f64) -> f64 {
    squares.iter().sum::<f64>().sqrt() / weight
}

/// What the summed gradient is multiplied by: it divides by the weight, and scales down to `max_norm` where the norm is
/// above it (0: never). PyTorch's rule: the factor is `max_norm / (norm + 1e-6)`, at most 1.
///
/// None where the product would not be finite f32 numbers.
pub fn factor(weight: f64, norm: f64, max_norm: f64) -> Option<f32> {
    let clip = if max_norm > 0.0 { (max_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
    let factor = (clip / weight) as f32;
    // No element of the product is larger than its norm.
    (factor.is_finite() && norm * clip < f64::from(f32::MAX)).then_some(factor)
}

pub fn scale(gradient: &mut [f32], factor: f32) {
    gradient.par_chunks_mut(CHUNK).for_each(|chunk| chunk.iter_mut().for_each(|value| *value *= factor));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clipping_is_of_the_mean_by_its_global_norm() {
        let scaled = |max_norm| {
            let mut gradient = vec![3.0, 4.0];
            let norm = norm_of_mean(&squares(&gradient), 2.0);
            assert_eq!(norm, 2.5);
            scale(&mut gradient, factor(2.0, norm, max_norm).unwrap());
            gradient
        };
        let clipped = scaled(1.0).iter().map(|value| value * value).sum::<f32>().sqrt();
        assert!((clipped - 1.0).abs() < 1e-5, "{clipped}");
        assert_eq!(scaled(0.0), [1.5, 2.0]);
    }

    #[test]
    fn the_norm_is_the_same_for_any_number_of_threads() {
        let gradient: Vec<f32> = (0..300_001).map(|i| (i as f32 * 0.37).sin()).collect();
        let norm = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| norm_of_mean(&squares(&gradient), 3.0).to_bits())
        };
        assert_eq!(norm(1), norm(3));
    }

    #[test]
    fn there_is_no_factor_where_the_mean_gradient_would_not_be_finite() {
        assert_eq!(norm_of_mean(&squares(&[f32::MAX; 9]), 1.0), 3.0 * f64::from(f32::MAX));
        for norm in [f64::NAN, f64::INFINITY] {
            assert_eq!(factor(1.0, norm, 0.0), None);
            assert_eq!(factor(1.0, norm, 1.0), None);
        }
        assert_eq!(factor(1e-45, 1.0, 0.0), None, "1 / weight overflows");
        assert_eq!(factor(1e-30, 1e39, 0.0), None, "the mean overflows");
        assert_eq!(factor(1e-30, 1e39, 1.0), Some(1e-9), "clipped, it does not");
    }
}
