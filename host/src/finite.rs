//! Whether arrays hold nothing but finite numbers.

use rayon::prelude::*;

/// Whether all of these are finite numbers.
pub fn all_finite(values: &[f32]) -> bool {
    // x * 0 is zero for a finite number and NaN for all others, and so is the sum: one pass without branches.
    let clean = |chunk: &[f32]| chunk.iter().fold(0.0f32, |sum, value| sum + value * 0.0) == 0.0;
    values.par_chunks(1 << 16).all(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_that_is_not_finite_is_found_anywhere() {
        let with = |place: usize, value| {
            let mut values = vec![1.0; 200_000];
            values[place] = value;
            values
        };
        assert!(all_finite(&with(7, f32::MAX)) && all_finite(&with(7, -0.0)) && all_finite(&[]));
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in [0, 65_536, 199_999] {
                assert!(!all_finite(&with(place, value)), "{value} at {place}");
            }
        }
    }
}
