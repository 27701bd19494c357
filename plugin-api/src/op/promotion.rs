//! The type of what is computed of two types.

use crate::Dtype;

/// The element type of the result of an operation on elements of two types.
///
/// A type with itself is itself, and bool with another one the other one. A floating-point type with an integer is the
/// floating-point type; of two floating-point types it is the wider one, and float32 for float16 with bfloat16. Two integers
/// have the smallest integer type that holds the values of both; uint64 with a signed one has none.
pub fn promoted(a: Dtype, b: Dtype) -> Option<Dtype> {
    let integer = |dtype: Dtype| (dtype.size(), dtype.is_signed());
    if a == b || b == Dtype::BOOL {
        return Some(a);
    }
    match (a.is_float(), b.is_float()) {
        _ if a == Dtype::BOOL => Some(b),
        (true, false) => Some(a),
        (false, true) => Some(b),
        (true, true) if a.size() == b.size() => Some(Dtype::F32),
        (true, true) => Some(if a.size() > b.size() { a } else { b }),
        (false, false) => {
            let ((a_size, a_signed), (b_size, b_signed)) = (integer(a), integer(b));
            if a_signed == b_signed {
                return Some(if a_size > b_size { a } else { b });
            }
            let (signed, unsigned) = if a_signed { (a_size, b_size) } else { (b_size, a_size) };
            match signed.max(2 * unsigned) {
                2 => Some(Dtype::I16),
                4 => Some(Dtype::I32),
                8 => Some(Dtype::I64),
                _ => None,
            }
        }
    }
}

/// The type in which an operation with a real result computes elements of this one: integers and bool are float32 there.
pub fn real(dtype: Dtype) -> Dtype {
    if dtype.is_float() { dtype } else { Dtype::F32 }
}
