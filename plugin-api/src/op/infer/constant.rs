//! Operations without inputs.

use super::elementwise::expect_held;
use super::{Call, Outcome, natural, one, refuse};
use crate::{Dtype, Result};

fn dtype(call: &Call<'_>) -> Result<Dtype> {
    call.typed(call.attributes.required("dtype")?)
}

pub fn full(call: &Call<'_>) -> Outcome {
    let dtype = dtype(call)?;
    expect_held("value", call.attributes.required("value")?, dtype)?;
    one(call.shape()?, dtype)
}

pub fn arange(call: &Call<'_>) -> Outcome {
    let count = call.attributes.required::<i64>("count")?;
    if count < 0 {
        return refuse(format!("attribute \"count\" cannot be {count}"));
    }
    one(vec![natural("count", count)?], dtype(call)?)
}

pub fn random(call: &Call<'_>) -> Outcome {
    one(call.shape()?, dtype(call)?)
}
