//! How far a result may be from the true value: one table for all operations.
//!
//! A result is computed in float32 (in float64 for float64) and rounded to its type once. So half a unit in its last place is
//! allowed always, and beyond it `ulps` units of the type in which it is computed, and `terms` times 2^-24 (2^-53) of a
//! magnitude, for sums of many terms and for differences of numbers that are nearly equal. Without either, the result is the
//! nearest number of its type exactly.

use mdt_plugin_api::{Dtype, OpKind};

use crate::array::{Array, Number, least_normal, rounded, ulp};

/// What an error is measured against beside the result itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Magnitude {
    /// The operation's result on the absolute values of its inputs.
    Terms,
    /// The first input's element at the same place, or its largest one where the shapes differ.
    Input,
    /// The largest element of the first input.
    LargestInput,
    /// The largest element of the result.
    Result,
    /// 1.
    One,
}

/// The tolerance of an operation.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    pub ulps: f64,
    pub terms: f64,
    pub magnitude: Magnitude,
}

/// The table.
pub fn tolerance(op: OpKind) -> Tolerance {
    use Magnitude::{Input, LargestInput, One, Result, Terms};
    let (ulps, terms, magnitude) = match op {
        OpKind::DIVIDE | OpKind::SQRT | OpKind::DROPOUT => (1.0, 0.0, One),
        OpKind::RSQRT => (2.0, 0.0, One),
        OpKind::EXP | OpKind::LOG | OpKind::LOG1P | OpKind::TANH | OpKind::ERF | OpKind::SOFTPLUS => (4.0, 0.0, One),
        OpKind::SIGMOID | OpKind::SILU | OpKind::SWIGLU => (6.0, 0.0, One),
        OpKind::POWER => (8.0, 0.0, One),
        OpKind::SIN | OpKind::COS => (4.0, 2.0, One),
        OpKind::REMAINDER => (1.0, 2.0, Input),
        OpKind::GELU => (6.0, 4.0, Input),
        OpKind::SUM | OpKind::MEAN | OpKind::CUMULATIVE_SUM => (1.0, 4.0, Terms),
        // One after another, as the row says.
        OpKind::SCATTER_ADD => (1.0, 32.0, Terms),
        OpKind::MATMUL | OpKind::LINEAR | OpKind::GATHER_LINEAR => (1.0, 4.0, Terms),
        OpKind::QUANTIZED_LINEAR => (1.0, 8.0, Terms),
        OpKind::DEQUANTIZE => (1.0, 2.0, Result),
        OpKind::QUANTIZE => (4.0, 0.0, One),
        OpKind::SOFTMAX => (12.0, 0.0, One),
        OpKind::LOG_SUM_EXP | OpKind::LOG_SOFTMAX | OpKind::CROSS_ENTROPY => (6.0, 8.0, LargestInput),
        OpKind::TOKEN_LOSSES => (6.0, 16.0, Result),
        OpKind::RANDOM_NORMAL => (8.0, 64.0, One),
        OpKind::RMS_NORM => (6.0, 0.0, One),
        OpKind::LAYER_NORM => (6.0, 16.0, Result),
        OpKind::ROPE => (2.0, 4.0, Result),
        OpKind::ATTENTION => (6.0, 24.0, Result),
        _ => (0.0, 0.0, One),
    };
    Tolerance { ulps, terms, magnitude }
}

/// Whether the sign of a result that is zero is defined.
fn has_signed_zero(op: OpKind) -> bool {
    let computed = matches!(op, OpKind::NEGATIVE | OpKind::ABS | OpKind::MULTIPLY | OpKind::DIVIDE | OpKind::CAST);
    computed || moves(op)
}

/// Whether an operation only moves elements, whose bits stay then: subnormal numbers too.
fn moves(op: OpKind) -> bool {
    (OpKind::RESHAPE.0..=OpKind::STOP_GRADIENT.0).contains(&op.0) && op != OpKind::SCATTER_ADD && op != OpKind::CAST
}

/// Whether a number is what was expected.
pub fn is_near(op: OpKind, dtype: Dtype, got: Number, want: Number, magnitude: f64) -> bool {
    let (Number::Real(got), Number::Real(want)) = (got, want) else { return got.whole() == want.whole() };
    let nearest = rounded(dtype, want);
    if got.is_nan() || nearest.is_nan() {
        return got.is_nan() && nearest.is_nan();
    }
    if got == nearest {
        return got != 0.0 || !has_signed_zero(op) || got.is_sign_negative() == nearest.is_sign_negative();
    }
    let least = least_normal(dtype);
    if dtype != Dtype::F16 && got.abs() < least && nearest.abs() < least {
        // A device may take numbers that are smaller than the least normal one for 0.
        return !moves(op);
    }
    let Tolerance { ulps, terms, .. } = tolerance(op);
    if (ulps == 0.0 && terms == 0.0) || !got.is_finite() || !nearest.is_finite() {
        return false;
    }
    let computed = if dtype == Dtype::F64 { Dtype::F64 } else { Dtype::F32 };
    let unit = ulp(computed, 1.0) / 2.0;
    (got - want).abs() <= 0.5 * ulp(dtype, want) + ulps * ulp(computed, want) + terms * unit * magnitude
}

/// What the errors of a result are measured against, for each element.
pub fn magnitudes(
    op: OpKind,
    inputs: &[Option<&Array>],
    want: &Array,
    on_absolute_values: impl FnOnce(&[Option<&Array>]) -> Option<Array>,
) -> Vec<f64> {
    let largest = |array: &Array| {
        let finite = array.elements.iter().map(|element| element.real().abs()).filter(|x| x.is_finite());
        finite.fold(0.0, f64::max)
    };
    let count = want.elements.len();
    match tolerance(op).magnitude {
        Magnitude::Terms => {
            let absolute = |element: Number| match element {
                Number::Real(x) => Number::Real(x.abs()),
                Number::Whole(x) => Number::Whole(x.abs()),
            };
            let inputs: Vec<_> =
                inputs.iter().map(|input| input.map(|array| array.map(array.dtype, absolute))).collect();
            let inputs: Vec<_> = inputs.iter().map(Option::as_ref).collect();
            let terms = on_absolute_values(&inputs).unwrap_or_else(|| want.clone());
            terms.elements.iter().map(|element| element.real().abs()).collect()
        }
        Magnitude::Input | Magnitude::LargestInput => match inputs.first().copied().flatten() {
            Some(first) if tolerance(op).magnitude == Magnitude::Input && first.shape == want.shape => {
                first.elements.iter().map(|element| element.real().abs()).collect()
            }
            Some(first) => vec![largest(first); count],
            None => vec![1.0; count],
        },
        Magnitude::Result => vec![largest(want); count],
        Magnitude::One => vec![1.0; count],
    }
}
