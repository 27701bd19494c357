//! Operations that move elements.

use mlx_rs::ops::{
    self,
    indexing::{ArrayIndex, ArrayIndexOp, TryIndexMutOp, TryIndexOp},
};

use super::{Call, Outcome, call};
use crate::custom;

pub fn reshape(call: &Call<'_>) -> Outcome {
    Ok(call.input(0).reshape(&call.result_shape()?)?)
}

pub fn transpose(call: &Call<'_>) -> Outcome {
    Ok(call.input(0).transpose_axes(&call.ints("axes")?)?)
}

pub fn concatenate(call: &Call<'_>) -> Outcome {
    let dtype = call::mlx_type(call.result().dtype)?;
    let inputs = call.inputs().map(|input| input.as_dtype(dtype)).collect::<Result<Vec<_>, _>>()?;
    Ok(ops::concatenate(&inputs, call.axis()?)?)
}

pub fn slice(call: &Call<'_>) -> Outcome {
    let (start, stop) = (call.ints("start")?, call.ints("stop")?);
    let ranges: Vec<ArrayIndexOp<'_>> =
        start.iter().zip(&stop).map(|(&start, &stop)| (start..stop).index_op()).collect();
    Ok(call.input(0).try_index(&ranges[..])?)
}

pub fn slice_update(call: &Call<'_>) -> Outcome {
    let (x, update, start) = (call.input(0), call.input(1), call.ints("start")?);
    let ranges: Vec<ArrayIndexOp<'_>> =
        start.iter().zip(update.shape()).map(|(&start, &length)| (start..start + length).index_op()).collect();
    let mut result = x.clone();
    result.try_index_mut(&ranges[..], update)?;
    Ok(result)
}

pub fn broadcast_to(call: &Call<'_>) -> Outcome {
    let shape = call.result_shape()?;
    Ok(custom::adding_in_f32(call.recording, call.input(0), move |x| ops::broadcast_to(x, &shape))?)
}
