//! Whether arrays hold nothing but finite numbers.

use mdt_plugin_api::{Dtype, HostArrayRef};
use rayon::prelude::*;

/// Whether all of these are finite numbers.
pub fn all_finite(values: &[f32]) -> bool {
    // x * 0 is zero for a finite number and NaN for all others, and so is the sum: one pass without branches.
    let clean = |chunk: &[f32]| chunk.iter().fold(0.0f32, |sum, value| sum + value * 0.0) == 0.0;
    values.par_chunks(1 << 16).all(clean)
}

/// Whether all numbers of an array of floating-point numbers are finite: none has an exponent of ones alone.
pub fn is_finite(array: HostArrayRef<'_>) -> bool {
    match array.dtype {
        Dtype::BF16 => has_no(0x7F80, array.bytes, |bytes| u16::from_ne_bytes(bytes).into()),
        Dtype::F16 => has_no(0x7C00, array.bytes, |bytes| u16::from_ne_bytes(bytes).into()),
        _ => has_no(0x7F80_0000, array.bytes, u32::from_ne_bytes),
    }
}

fn has_no<const SIZE: usize>(exponent: u32, bytes: &[u8], number: impl Fn([u8; SIZE]) -> u32 + Sync) -> bool {
    bytes.par_chunks(SIZE << 16).all(|chunk| {
        let (numbers, _) = chunk.as_chunks::<SIZE>();
        // Without branches.
        numbers.iter().fold(true, |clean, &bytes| clean & (number(bytes) & exponent != exponent))
    })
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

    #[test]
    fn arrays_of_every_type_are_looked_at_by_their_bits() {
        use mdt_plugin_api::half::{bf16, f16};
        let shape = [4];
        let of_f32 = |x: f32| is_finite(HostArrayRef::of(&shape, &[1.0, x, -0.0, f32::MIN_POSITIVE / 2.0]));
        let of_f16 = |x: f16| is_finite(HostArrayRef::of(&shape, &[f16::ONE, x, f16::MAX, f16::MIN]));
        let of_bf16 = |x: bf16| is_finite(HostArrayRef::of(&shape, &[bf16::ONE, x, bf16::MAX, bf16::MIN]));
        assert!(of_f32(f32::MAX) && of_f16(f16::ZERO) && of_bf16(bf16::ZERO));
        for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(!of_f32(x) && !of_f16(f16::from_f32(x)) && !of_bf16(bf16::from_f32(x)), "{x}");
        }
    }
}
