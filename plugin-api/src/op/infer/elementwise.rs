//! Operations on each element.

use super::{Call, Outcome, broadcast, common, one, refuse};
use crate::op::promotion::real;
use crate::{Dtype, Result, TensorType};

pub fn same(call: &Call<'_>) -> Outcome {
    let x = call.first()?;
    one(x.shape.clone(), x.dtype)
}

pub fn real_same(call: &Call<'_>) -> Outcome {
    let x = call.first()?;
    one(x.shape.clone(), real(x.dtype))
}

pub fn gelu(call: &Call<'_>) -> Outcome {
    match call.attributes.optional::<&str>("approximate")? {
        None | Some("none" | "tanh") => same(call),
        Some(other) => refuse(format!("attribute \"approximate\" is {other:?}; it knows none and tanh")),
    }
}

pub fn dropout(call: &Call<'_>) -> Outcome {
    call.rate("rate")?;
    same(call)
}

pub fn logical_not(call: &Call<'_>) -> Outcome {
    one(call.first()?.shape.clone(), Dtype::BOOL)
}

pub fn cast(call: &Call<'_>) -> Outcome {
    let dtype = call.typed(call.attributes.required("dtype")?)?;
    one(call.first()?.shape.clone(), dtype)
}

pub fn arithmetic(call: &Call<'_>) -> Outcome {
    let TensorType { shape, dtype } = operands(call)?;
    one(shape, call.typed(dtype)?)
}

pub fn real_arithmetic(call: &Call<'_>) -> Outcome {
    let TensorType { shape, dtype } = operands(call)?;
    one(shape, real(call.typed(dtype)?))
}

pub fn comparison(call: &Call<'_>) -> Outcome {
    let TensorType { shape, dtype } = operands(call)?;
    call.typed(dtype)?;
    one(shape, Dtype::BOOL)
}

pub fn logical(call: &Call<'_>) -> Outcome {
    let (a, b) = (call.first()?, call.input(1)?);
    call.typed(b.dtype)?;
    one(broadcast(&a.shape, &b.shape)?, Dtype::BOOL)
}

pub fn select(call: &Call<'_>) -> Outcome {
    let (condition, a, b) = (call.input(0)?, call.input(1)?, call.input(2)?);
    if condition.dtype != Dtype::BOOL {
        return refuse(format!("a condition is bool, not {}", condition.dtype));
    }
    let dtype = call.typed(common(a.dtype, b.dtype)?)?;
    one(broadcast(&condition.shape, &broadcast(&a.shape, &b.shape)?)?, dtype)
}

/// The broadcast shape and promoted type of two operands, one of which may be a number in an attribute.
fn operands(call: &Call<'_>) -> Result<TensorType> {
    let a = call.input(0)?;
    let numbers = (call.attributes.optional::<f64>("left")?, call.attributes.optional::<f64>("right")?);
    match (call.given(1), numbers) {
        (Some(b), (None, None)) => {
            Ok(TensorType { shape: broadcast(&a.shape, &b.shape)?, dtype: common(a.dtype, b.dtype)? })
        }
        (None, (Some(number), None)) => with_number(a, "left", number),
        (None, (None, Some(number))) => with_number(a, "right", number),
        _ => refuse("takes two inputs, or one and one of the attributes \"left\" and \"right\""),
    }
}

fn with_number(x: &TensorType, name: &str, number: f64) -> Result<TensorType> {
    expect_held(name, number, x.dtype)?;
    Ok(x.clone())
}

/// Refuses a number that an integer type does not hold; a floating-point type takes the nearest number that it has.
pub fn expect_held(name: &str, number: f64, dtype: Dtype) -> Result<()> {
    let bits = 8 * dtype.size() as i32;
    let (least, end) = match dtype {
        dtype if dtype.is_float() => return Ok(()),
        Dtype::BOOL => (0.0, 2.0),
        dtype if dtype.is_signed() => (-(2f64.powi(bits - 1)), 2f64.powi(bits - 1)),
        _ => (0.0, 2f64.powi(bits)),
    };
    if number.fract() == 0.0 && (least..end).contains(&number) {
        return Ok(());
    }
    refuse(format!("attribute {name:?}: {number} is no value of the element type {dtype}"))
}
