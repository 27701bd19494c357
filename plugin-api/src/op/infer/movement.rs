//! Operations that move or choose elements.

use super::{Call, Outcome, broadcast, common, expect, expect_integers, one, place, refuse};
use crate::Result;

pub fn reshape(call: &Call<'_>) -> Outcome {
    let x = call.first()?;
    let given = call.attributes.required::<&[i64]>("shape")?;
    let mut known = Some(1usize);
    for &length in given.iter().filter(|&&length| length != -1) {
        known = known.and_then(|known| known.checked_mul(usize::try_from(length).ok()?));
    }
    let elements: usize = x.shape.iter().product();
    let open = given.iter().filter(|&&length| length == -1).count();
    let fits = match (open, known) {
        (0, Some(known)) => known == elements,
        (1, Some(known)) => elements.is_multiple_of(known) && known > 0,
        _ => false,
    };
    if !fits {
        return refuse(format!("{elements} elements do not have the shape {given:?}"));
    }
    let open = elements / known.unwrap_or(1).max(1);
    one(given.iter().map(|&length| usize::try_from(length).unwrap_or(open)).collect(), x.dtype)
}

pub fn transpose(call: &Call<'_>) -> Outcome {
    let x = call.first()?;
    let axes = call.attributes.required::<&[i64]>("axes")?;
    if axes.len() != x.shape.len() {
        return refuse(format!("needs an order of {} axes, not of {}", x.shape.len(), axes.len()));
    }
    let mut shape = Vec::with_capacity(axes.len());
    for (at, &axis) in axes.iter().enumerate() {
        let axis = place(axis, axes.len())?;
        if axes[..at].iter().any(|&earlier| place(earlier, axes.len()).is_ok_and(|earlier| earlier == axis)) {
            return refuse(format!("axis {axis} is given twice"));
        }
        shape.push(x.shape[axis]);
    }
    one(shape, x.dtype)
}

pub fn broadcast_to(call: &Call<'_>) -> Outcome {
    let (x, shape) = (call.first()?, call.shape()?);
    if broadcast(&x.shape, &shape).ok().as_ref() != Some(&shape) {
        return refuse(format!("does not broadcast to {shape:?}"));
    }
    one(shape, x.dtype)
}

pub fn concatenate(call: &Call<'_>) -> Outcome {
    let first = call.first()?;
    let axis = call.axis(first)?;
    let (mut shape, mut dtype) = (first.shape.clone(), first.dtype);
    for at in 1..call.inputs.len() {
        let next = call.input(at)?;
        let fits = next.shape.len() == shape.len()
            && (0..shape.len()).all(|other| other == axis || next.shape[other] == shape[other]);
        expect(fits, "inputs of one shape, but for the axis")?;
        dtype = common(dtype, call.typed(next.dtype)?)?;
        shape[axis] = match shape[axis].checked_add(next.shape[axis]) {
            Some(length) => length,
            None => return refuse("the result is longer than can be counted"),
        };
    }
    one(shape, dtype)
}

pub fn slice(call: &Call<'_>) -> Outcome {
    let x = call.first()?;
    let (start, stop) = (call.attributes.required::<&[i64]>("start")?, call.attributes.required::<&[i64]>("stop")?);
    let rank = x.shape.len();
    if start.len() != rank || stop.len() != rank {
        return refuse(format!(
            "needs a start and a stop for each of {rank} axes, not {} and {}",
            start.len(),
            stop.len()
        ));
    }
    let mut shape = Vec::with_capacity(rank);
    for (axis, ((&start, &stop), &length)) in start.iter().zip(stop).zip(&x.shape).enumerate() {
        if !(0 <= start && start <= stop && stop as usize <= length) {
            return refuse(format!("{start}..{stop} is not a part of axis {axis}, which has length {length}"));
        }
        shape.push((stop - start) as usize);
    }
    one(shape, x.dtype)
}

pub fn slice_update(call: &Call<'_>) -> Outcome {
    let (x, update) = (call.first()?, call.input(1)?);
    let start = call.attributes.required::<&[i64]>("start")?;
    let rank = x.shape.len();
    if start.len() != rank || update.shape.len() != rank || update.dtype != x.dtype {
        return refuse(format!("needs an update of the same type and {rank} axes, and {rank} starts"));
    }
    for (axis, ((&start, &length), &all)) in start.iter().zip(&update.shape).zip(&x.shape).enumerate() {
        let end = usize::try_from(start).ok().and_then(|start| start.checked_add(length));
        if end.is_none_or(|end| end > all) {
            return refuse(format!(
                "{length} elements from {start} on are not a part of axis {axis}, which has length {all}"
            ));
        }
    }
    one(x.shape.clone(), x.dtype)
}

pub fn take(call: &Call<'_>) -> Outcome {
    let (x, indices) = (call.first()?, call.input(1)?);
    let axis = call.axis(x)?;
    expect_integers(indices)?;
    one([&x.shape[..axis], &indices.shape, &x.shape[axis + 1..]].concat(), x.dtype)
}

pub fn take_along_axis(call: &Call<'_>) -> Outcome {
    let (x, indices) = (call.first()?, call.input(1)?);
    expect_indices_along(&x.shape, &indices.shape, call.axis(x)?)?;
    expect_integers(indices)?;
    one(indices.shape.clone(), x.dtype)
}

pub fn scatter(call: &Call<'_>) -> Outcome {
    let (x, indices, updates) = (call.first()?, call.input(1)?, call.input(2)?);
    expect_indices_along(&x.shape, &indices.shape, call.axis(x)?)?;
    expect_integers(indices)?;
    expect(updates.shape == indices.shape && updates.dtype == x.dtype, "updates of x's type and the indices' shape")?;
    one(x.shape.clone(), x.dtype)
}

fn expect_indices_along(x: &[usize], indices: &[usize], axis: usize) -> Result<()> {
    let fits = x.len() == indices.len() && (0..x.len()).all(|other| other == axis || x[other] == indices[other]);
    expect(fits, "indices of x's shape, but for the axis")
}
