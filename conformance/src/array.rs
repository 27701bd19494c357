//! Arrays in host memory as the reference computes with them: real numbers in f64, integers exact.

use half::{bf16, f16};
use mdt_plugin_api::{Dtype, TensorType};

/// An element.
#[derive(Clone, Copy, Debug)]
pub enum Number {
    /// Of a floating-point type.
    Real(f64),
    /// Of an integer type or bool.
    Whole(i128),
}

impl Number {
    /// Its value.
    pub fn real(self) -> f64 {
        match self {
            Self::Real(x) => x,
            Self::Whole(x) => x as f64,
        }
    }

    /// Its value as an integer, towards 0.
    pub fn whole(self) -> i128 {
        match self {
            Self::Real(x) => x as i128,
            Self::Whole(x) => x,
        }
    }

    pub fn is_true(self) -> bool {
        // NaN is not 0.
        self.real() != 0.0
    }

    /// As the operation `cast` defines it, but unrounded where the result is a real number.
    pub fn cast(self, dtype: Dtype) -> Self {
        match (self, dtype) {
            (_, Dtype::BOOL) => Self::Whole(self.is_true().into()),
            (_, dtype) if dtype.is_float() => Self::Real(self.real()),
            (Self::Whole(x), _) => Self::Whole(wrapped(dtype, x)),
            (Self::Real(x), _) => {
                let (least, largest) = bounds(dtype);
                Self::Whole((x as i128).clamp(least, largest))
            }
        }
    }
}

/// The least and the largest number of an integer type.
pub fn bounds(dtype: Dtype) -> (i128, i128) {
    let bits = 8 * dtype.size() as u32;
    match dtype {
        Dtype::BOOL => (0, 1),
        _ if dtype.is_signed() => (-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
        _ => (0, (1 << bits) - 1),
    }
}

/// The lowest bits of a number, as an integer of this type.
pub fn wrapped(dtype: Dtype, x: i128) -> i128 {
    let (least, largest) = bounds(dtype);
    (x - least).rem_euclid(largest - least + 1) + least
}

/// Bits of the fraction, the least exponent of a normal number, and the largest number of a floating-point type.
fn format(dtype: Dtype) -> (i32, i32, f64) {
    match dtype {
        Dtype::F16 => (10, -14, 65_504.0),
        Dtype::BF16 => (7, -126, bf16::MAX.to_f64()),
        Dtype::F32 => (23, -126, f32::MAX.into()),
        _ => (52, -1022, f64::MAX),
    }
}

/// The distance between neighbours of the type at this number.
pub fn ulp(dtype: Dtype, x: f64) -> f64 {
    let (fraction, least, _) = format(dtype);
    let exponent = if x == 0.0 { least } else { libm::frexp(x).1 - 1 };
    libm::ldexp(1.0, exponent.max(least) - fraction)
}

/// Below this, a number of the type is subnormal.
pub fn least_normal(dtype: Dtype) -> f64 {
    libm::ldexp(1.0, format(dtype).1)
}

/// The largest number of the type.
pub fn largest(dtype: Dtype) -> f64 {
    format(dtype).2
}

/// The nearest number of the type, of two the even one.
pub fn rounded(dtype: Dtype, x: f64) -> f64 {
    if dtype == Dtype::F64 || !x.is_finite() || x == 0.0 {
        return x;
    }
    let unit = ulp(dtype, x);
    let rounded = (x / unit).round_ties_even() * unit;
    if rounded.abs() > largest(dtype) { f64::INFINITY.copysign(x) } else { rounded }
}

/// A row-major array.
#[derive(Clone, Debug)]
pub struct Array {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub elements: Vec<Number>,
}

impl Array {
    /// An array of these numbers, as the type holds them.
    pub fn of(dtype: Dtype, shape: &[usize], numbers: impl IntoIterator<Item = f64>) -> Self {
        let element = |x: f64| match Number::Real(x).cast(dtype) {
            Number::Real(x) => Number::Real(rounded(dtype, x)),
            whole => whole,
        };
        let elements: Vec<_> = numbers.into_iter().map(element).collect();
        assert_eq!(elements.len(), shape.iter().product::<usize>(), "a case has elements for its shape {shape:?}");
        Self { dtype, shape: shape.to_vec(), elements }
    }

    pub fn tensor_type(&self) -> TensorType {
        TensorType { shape: self.shape.clone(), dtype: self.dtype }
    }

    /// Its elements as the type's bytes, rounded.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.elements.len() * self.dtype.size());
        for element in &self.elements {
            match self.dtype {
                Dtype::F64 => bytes.extend(element.real().to_ne_bytes()),
                Dtype::F32 => bytes.extend((rounded(self.dtype, element.real()) as f32).to_ne_bytes()),
                Dtype::F16 => bytes.extend(f16::from_f64(rounded(self.dtype, element.real())).to_ne_bytes()),
                Dtype::BF16 => bytes.extend(bf16::from_f64(rounded(self.dtype, element.real())).to_ne_bytes()),
                _ => {
                    let all = element.whole().to_le_bytes();
                    let mut own = all[..self.dtype.size()].to_vec();
                    if cfg!(target_endian = "big") {
                        own.reverse();
                    }
                    bytes.extend(own);
                }
            }
        }
        bytes
    }

    /// An array of these bytes.
    pub fn from_bytes(TensorType { shape, dtype }: TensorType, bytes: &[u8]) -> Self {
        let element = |bytes: &[u8]| {
            macro_rules! of {
                ($number:ty) => {
                    <$number>::from_ne_bytes(bytes.try_into().expect("as many bytes as the type has"))
                };
            }
            match dtype {
                Dtype::F64 => Number::Real(of!(f64)),
                Dtype::F32 => Number::Real(of!(f32).into()),
                Dtype::F16 => Number::Real(of!(f16).to_f64()),
                Dtype::BF16 => Number::Real(of!(bf16).to_f64()),
                Dtype::I8 => Number::Whole(of!(i8).into()),
                Dtype::I16 => Number::Whole(of!(i16).into()),
                Dtype::I32 => Number::Whole(of!(i32).into()),
                Dtype::I64 => Number::Whole(of!(i64).into()),
                Dtype::U16 => Number::Whole(of!(u16).into()),
                Dtype::U32 => Number::Whole(of!(u32).into()),
                Dtype::U64 => Number::Whole(of!(u64).into()),
                _ => Number::Whole(of!(u8).into()),
            }
        };
        let elements = bytes.chunks_exact(dtype.size().max(1)).map(element).collect();
        Self { dtype, shape, elements }
    }

    /// The same shape, each element changed.
    pub fn map(&self, dtype: Dtype, change: impl FnMut(Number) -> Number) -> Self {
        Self { dtype, shape: self.shape.clone(), elements: self.elements.iter().copied().map(change).collect() }
    }

    /// An array of another shape, with the element of this one that `place` gives for each index.
    pub fn picked(&self, shape: &[usize], mut place: impl FnMut(&[usize]) -> usize) -> Self {
        let elements = indices(shape).map(|index| self.elements[place(&index)]).collect();
        Self { dtype: self.dtype, shape: shape.to_vec(), elements }
    }

    /// Repeats axes of length 1, aligned at the right; the shapes have been checked.
    pub fn broadcast(&self, shape: &[usize]) -> Self {
        let missing = shape.len() - self.shape.len();
        self.picked(shape, |index| {
            let own: Vec<_> = self
                .shape
                .iter()
                .zip(&index[missing..])
                .map(|(&length, &at)| if length == 1 { 0 } else { at })
                .collect();
            offset(&self.shape, &own)
        })
    }
}

/// Every index of a shape, in row-major order.
pub fn indices(shape: &[usize]) -> impl Iterator<Item = Vec<usize>> + use<> {
    let shape = shape.to_vec();
    (0..shape.iter().product()).map(move |mut place| {
        let mut index: Vec<_> = shape
            .iter()
            .rev()
            .map(|&length| {
                let at = place % length;
                place /= length;
                at
            })
            .collect();
        index.reverse();
        index
    })
}

/// The place of an index in row-major order.
pub fn offset(shape: &[usize], index: &[usize]) -> usize {
    shape.iter().zip(index).fold(0, |place, (&length, &at)| place * length + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_to_the_nearest_of_their_type_once() {
        assert_eq!(rounded(Dtype::F32, 0.1), f64::from(0.1f32));
        // Just above the middle of two neighbours; dropping the low bits first would make it a tie.
        assert_eq!(rounded(Dtype::BF16, 1.0 + 1.0 / 256.0 + 1e-14), 1.0 + 1.0 / 128.0);
        assert_eq!(rounded(Dtype::BF16, 1.0 + 1.0 / 256.0), 1.0);
        assert_eq!(rounded(Dtype::F16, 65_519.9), 65_504.0);
        assert_eq!(rounded(Dtype::F16, -65_520.0), f64::NEG_INFINITY);
        assert_eq!(rounded(Dtype::F16, 2f64.powi(-25) * 1.1), 2f64.powi(-24));
    }

    #[test]
    fn integers_keep_their_lowest_bits_and_reals_are_bounded() {
        assert_eq!(wrapped(Dtype::I32, 1 << 31), i128::from(i32::MIN));
        assert_eq!(wrapped(Dtype::U8, -1), 255);
        assert_eq!(Number::Real(-3.7).cast(Dtype::U8).whole(), 0);
        assert_eq!(Number::Real(1e30).cast(Dtype::I64).whole(), i128::from(i64::MAX));
        assert_eq!(Number::Real(f64::NAN).cast(Dtype::I32).whole(), 0);
    }

    #[test]
    fn bytes_give_the_same_array_again() {
        for dtype in (1..=13).map(Dtype) {
            let array = Array::of(dtype, &[2, 2], [0.0, 1.0, 100.25, -7.0]);
            let again = Array::from_bytes(array.tensor_type(), &array.bytes());
            assert_eq!(format!("{:?}", again.elements), format!("{:?}", array.elements), "{dtype}");
        }
    }
}
