//! Operations on each element that MLX does not have as they are defined.

use mlx_rs::error::Result;
use mlx_rs::{Array, Dtype, ops, stop_gradient};

use super::constant::scalar;
use super::{Call, Outcome, call};
use crate::custom;

/// Where MLX's own gradient is not the definition's: `value` of two operands of one shape, and the gradients by both of the
/// operands, the cotangent and the value.
struct Pair {
    value: fn(&Array, &Array) -> Result<Array>,
    gradients: fn(&[Array], &Array, &Array) -> Result<Vec<Array>>,
}

fn with_gradients(call: &Call<'_>, pair: Pair) -> Outcome {
    if !call.recording || !call.result().dtype.is_float() {
        return call.binary(pair.value);
    }
    let shape = call.result_shape()?;
    call.binary(|a, b| {
        let [a, b] = [ops::broadcast_to(a, &shape)?, ops::broadcast_to(b, &shape)?];
        let value = (pair.value)(&a, &b)?;
        custom::with_gradients(&[&a, &b], value, pair.gradients)
    })
}

fn zero(like: &Array) -> Result<Array> {
    Array::from_f32(0.0).as_dtype(like.dtype())
}

/// MLX multiplies by 0 and 1, which gives NaN where the cotangent is infinite, and no gradient for NaN.
pub fn maximum(call: &Call<'_>) -> Outcome {
    with_gradients(call, Pair { value: |a, b| ops::maximum(a, b), gradients: |x, c, _| chosen(&x[0].gt(&x[1])?, c) })
}

pub fn minimum(call: &Call<'_>) -> Outcome {
    with_gradients(call, Pair { value: |a, b| ops::minimum(a, b), gradients: |x, c, _| chosen(&x[0].lt(&x[1])?, c) })
}

/// The cotangent for the first operand where `first` holds, else for the second one.
pub fn chosen(first: &Array, cotangent: &Array) -> Result<Vec<Array>> {
    let zero = zero(cotangent)?;
    Ok(vec![ops::select(first, cotangent, &zero)?, ops::select(first, &zero, cotangent)?])
}

/// MLX's gradients are not 0 where they are infinite times 0.
pub fn power(call: &Call<'_>) -> Outcome {
    fn gradients(x: &[Array], cotangent: &Array, value: &Array) -> Result<Vec<Array>> {
        let ([a, b], zero) = ([&x[0], &x[1]], zero(cotangent)?);
        let by_a = b.multiply(a.power(b.subtract(Array::from_f32(1.0).as_dtype(b.dtype())?)?)?)?;
        let by_b = value.multiply(a.log()?)?;
        Ok(vec![
            ops::select(b.eq(&zero)?, &zero, cotangent.multiply(by_a)?)?,
            ops::select(a.eq(&zero)?, &zero, cotangent.multiply(by_b)?)?,
        ])
    }
    with_gradients(call, Pair { value: |a, b| a.power(b), gradients })
}

/// MLX divides integers as C does: towards 0, and not at all by 0.
pub fn floor_divide(a: &Array, b: &Array) -> Result<Array> {
    if a.dtype().is_float() {
        return a.divide(b)?.floor();
    }
    Ok(divided(a, b)?.0)
}

/// As above. MLX's remainder of float32 is the formula's or better; float64 has the formula's own.
pub fn remainder(a: &Array, b: &Array) -> Result<Array> {
    if a.dtype() == Dtype::Float64 {
        return a.subtract(b.multiply(stop_gradient(floor_divide(a, b)?)?)?);
    }
    if a.dtype().is_float() {
        return a.remainder(b);
    }
    Ok(divided(a, b)?.1)
}

/// Quotient and remainder of integers. Processors trap at a division by 0, and at the least number's by -1.
fn divided(a: &Array, b: &Array) -> Result<(Array, Array)> {
    let number = |value: i64| Array::from_slice(&[value], &[]).as_dtype(a.dtype());
    let (zero, one) = (number(0)?, number(1)?);
    let is_zero = b.eq(&zero)?;
    let is_signed = matches!(a.dtype(), Dtype::Int8 | Dtype::Int16 | Dtype::Int32 | Dtype::Int64);
    if !is_signed {
        let divisor = ops::select(&is_zero, &one, b)?;
        let quotient = a.floor_divide(&divisor)?;
        let rest = a.subtract(quotient.multiply(&divisor)?)?;
        return Ok((ops::select(&is_zero, &zero, quotient)?, ops::select(&is_zero, &zero, rest)?));
    }
    let is_minus_one = b.eq(number(-1)?)?;
    let divisor = ops::select(is_zero.logical_or(&is_minus_one)?, &one, b)?;
    let towards_zero = a.floor_divide(&divisor)?;
    let rest = a.subtract(towards_zero.multiply(&divisor)?)?;
    let is_above = rest.ne(&zero)?.logical_and(rest.lt(&zero)?.ne(divisor.lt(&zero)?)?)?;
    let quotient = ops::select(&is_above, towards_zero.subtract(&one)?, &towards_zero)?;
    let rest = ops::select(&is_above, rest.add(&divisor)?, rest)?;
    let quotient = ops::select(&is_minus_one, zero.subtract(a)?, quotient)?;
    Ok((ops::select(&is_zero, &zero, quotient)?, ops::select(is_zero.logical_or(&is_minus_one)?, &zero, rest)?))
}

/// MLX gives 0 for NaN.
pub fn sign(x: &Array) -> Result<Array> {
    let sign = ops::sign(x)?;
    if x.dtype().is_float() { ops::select(ops::is_nan(x)?, x, sign) } else { Ok(sign) }
}

/// MLX leaves it to C what an integer type cannot hold.
pub fn cast(call: &Call<'_>) -> Outcome {
    let (x, to) = (call.input(0), call::mlx_type(call.required("dtype")?)?);
    if !x.dtype().is_float() || to.is_float() || to == Dtype::Bool {
        return Ok(crate::fused::convert(x, to)?);
    }
    let x = &stop_gradient(if x.dtype() == Dtype::Float64 { x.clone() } else { x.as_dtype(Dtype::Float32)? })?;
    let dtype = call.result().dtype;
    let bits = 8 * dtype.size() as i32;
    let (least, end) =
        if dtype.is_signed() { (-(2f64.powi(bits - 1)), 2f64.powi(bits - 1)) } else { (0.0, 2f64.powi(bits)) };
    let bound = |value: f64| scalar(value, x.dtype());
    // Powers of two, which every floating-point type has; the largest number below the end it may not have.
    let (is_small, is_large) = (x.lt(bound(least)?)?, x.ge(bound(end)?)?);
    let is_held = x.ge(bound(least)?)?.logical_and(x.lt(bound(end)?)?)?;
    let held = ops::select(is_held, x, bound(0.0)?)?.as_dtype(to)?;
    let held = ops::select(is_small, extreme(least, to)?, held)?;
    // One below the end, by wrapping around.
    let largest = extreme(least, to)?.subtract(extreme(1.0, to)?)?;
    Ok(ops::select(is_large, largest, held)?)
}

/// An integer of this type.
fn extreme(value: f64, dtype: Dtype) -> Outcome {
    Ok(Array::from_slice(&[value as i64], &[]).as_dtype(dtype)?)
}
