//! Functions of each element.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, PI};

use super::{Call, wide};
use crate::{Dtype, Result, Tensor};

pub fn square(x: &Tensor) -> Result<Tensor> {
    x * x
}

/// Where x is negative, and `-|x|`, whose gradient at 0 is that from above.
fn minus_magnitude(x: &Tensor) -> Result<(Tensor, Tensor)> {
    let is_negative = x.less(0.0)?;
    let magnitude = is_negative.select(x, &x.negative()?)?;
    Ok((is_negative, magnitude))
}

/// `1 / (1 + e⁻ˣ)` above 0, `eˣ / (1 + eˣ)` below: the exponential is at most 1.
pub fn sigmoid(x: &Tensor) -> Result<Tensor> {
    let (is_negative, magnitude) = minus_magnitude(x)?;
    let exp = magnitude.exp()?;
    &is_negative.select(&exp, &x.number(1.0)?)? / &exp.plus(1.0)?
}

pub fn silu(x: &Tensor) -> Result<Tensor> {
    x * &x.sigmoid()?
}

/// `max(x, 0) + log(1 + exp(-|x|))`.
pub fn softplus(x: &Tensor) -> Result<Tensor> {
    let (is_negative, magnitude) = minus_magnitude(x)?;
    &is_negative.select(&x.number(0.0)?, x)? + &magnitude.exp()?.log1p()?
}

/// In the order of PyTorch's formulas.
pub fn gelu(call: &Call<'_>) -> Result<Tensor> {
    let x = &call.wide(0)?;
    let one_plus = if call.attributes().optional("approximate")? == Some("tanh") {
        // Beyond 10 the hyperbolic tangent is 1, while the cube could overflow.
        let x = &x.maximum(-10.0)?.minimum(10.0)?;
        let cube = (&(x * x)? * x)?.multiply(0.044715)?;
        (x + &cube)?.multiply(FRAC_2_SQRT_PI * FRAC_1_SQRT_2)?.tanh()?
    } else {
        x.multiply(FRAC_1_SQRT_2)?.erf()?
    };
    &x.multiply(0.5)? * &one_plus.plus(1.0)?
}

/// `(x > 0) - (x < 0)`, and NaN for NaN.
pub fn sign(x: &Tensor) -> Result<Tensor> {
    let dtype = x.tensor_type()?.dtype;
    let sign = (&x.greater(0.0)?.cast(dtype)? - &x.less(0.0)?.cast(dtype)?)?;
    x.equal(x)?.select(&sign, x)
}

pub fn logical_or(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    a.logical_not()?.logical_and(&b.logical_not()?)?.logical_not()
}

pub fn dropout(call: &Call<'_>) -> Result<Tensor> {
    let (x, rate) = (call.wide(0)?, call.attributes().required::<f64>("rate")?);
    kept(call, rate, call.shape(0)?)?.select(&x.multiply(1.0 / (1.0 - rate))?, &x.number(0.0)?)
}

/// Where dropout keeps elements of this shape.
pub fn kept(call: &Call<'_>, rate: f64, shape: &[usize]) -> Result<Tensor> {
    Tensor::random_uniform(call.compute, call.key()?, &super::ints(shape), Dtype::F32)?.less(1.0 - rate)
}

/// Box and Muller's transform.
pub fn random_normal(call: &Call<'_>) -> Result<Tensor> {
    let (shape, dtype) = (call.attributes().required::<&[i64]>("shape")?, call.attributes().required("dtype")?);
    let count = shape.iter().product();
    let uniform = Tensor::random_uniform(call.compute, call.key()?, &[2, count], wide(dtype))?;
    let (first, second) = (uniform.slice(&[0, 0], &[1, count])?, uniform.slice(&[1, 0], &[2, count])?);
    let radius = (1.0 - &first)?.log()?.multiply(-2.0)?.sqrt()?;
    (&radius * &second.multiply(2.0 * PI)?.cos()?)?.reshape(shape)
}
