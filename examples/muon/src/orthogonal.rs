//! The orthogonal matrix that is nearest to another one, approximately, by products of matrices alone.

use mdt_plugin_api::prelude::*;

/// The polynomial a x + b x³ + c x⁵ that each iteration applies to every singular value: it moves all of them to about 1
/// (between 0.7 and 1.2), small ones as fast as it can.
const A: f64 = 3.4445;
const B: f64 = -4.775;
const C: f64 = 2.0315;

/// Keeps the division by the norm finite where the gradient vanishes.
const SMALLEST_NORM: f64 = 1e-7;

/// Newton and Schulz's iteration on a matrix.
pub fn nearest(matrix: &Tensor, iterations: u32) -> Result<Tensor> {
    // With fewer rows than columns the products below are the smaller ones.
    let shape = matrix.shape()?;
    if shape[0] > shape[1] {
        return nearest(&matrix.transpose(&[1, 0])?, iterations)?.transpose(&[1, 0]);
    }
    let norm = matrix.square()?.sum()?.sqrt()?;
    let mut x = (matrix / &norm.maximum(SMALLEST_NORM)?)?;
    for _ in 0..iterations {
        let gram = x.matmul(&x.transpose(&[1, 0])?)?;
        let odd = (&gram.multiply(B)? + &gram.matmul(&gram)?.multiply(C)?)?;
        x = (&x.multiply(A)? + &odd.matmul(&x)?)?;
    }
    Ok(x)
}
