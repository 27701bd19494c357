//! Walks through several arrays of one shape at a time, in row-major order, each with strides of its own; and what is only that:
//! moving elements, by the list of their places.

use mdt_plugin_api::{Dtype, Error, Result, TensorType};

use crate::array::{Array, with_number};

/// The strides of elements that lie one after another in row-major order.
pub fn row_major(shape: &[usize]) -> Vec<usize> {
    (1..=shape.len()).map(|axis| shape[axis..].iter().product()).collect()
}

/// The strides of an array of shape `from` that is repeated to shape `to`: 0 along an axis that repeats.
pub fn broadcast(from: &[usize], to: &[usize]) -> Vec<usize> {
    let own = row_major(from).into_iter().zip(from).map(|(stride, &length)| if length == 1 { 0 } else { stride });
    std::iter::repeat_n(0, to.len() - from.len()).chain(own).collect()
}

/// A shape with 1 in the place of the lengths of these axes.
pub fn reduced(shape: &[usize], axes: &[usize]) -> Vec<usize> {
    shape.iter().enumerate().map(|(axis, &length)| if axes.contains(&axis) { 1 } else { length }).collect()
}

/// Calls `run(count, starts, steps)` for each run of elements along the last axis: how many, where they start in each array, and
/// how far they are apart there. Axes are joined where all arrays allow it, so that runs are long.
pub fn runs<const N: usize>(
    shape: &[usize],
    strides: [&[usize]; N],
    mut run: impl FnMut(usize, [usize; N], [usize; N]),
) {
    if shape.contains(&0) {
        return;
    }
    let mut axes: Vec<(usize, [usize; N])> = Vec::new();
    for (axis, &length) in shape.iter().enumerate().filter(|&(_, &length)| length > 1) {
        let steps = strides.map(|strides| strides[axis]);
        match axes.last_mut() {
            Some(outer) if outer.1 == steps.map(|step| step * length) => *outer = (outer.0 * length, steps),
            _ => axes.push((length, steps)),
        }
    }
    let (count, steps) = axes.pop().unwrap_or((1, [0; N]));
    let (mut position, mut starts) = (vec![0; axes.len()], [0; N]);
    loop {
        run(count, starts, steps);
        // On to the next run, as an odometer counts.
        let has_moved = axes.iter().zip(&mut position).rev().any(|(&(length, steps), at)| {
            let back = if *at + 1 < length { 0 } else { length };
            *at = *at + 1 - back;
            starts.iter_mut().zip(steps).for_each(|(start, step)| *start = *start + step - back * step);
            back == 0
        });
        if !has_moved {
            return;
        }
    }
}

/// The places of the elements of a shape in an array with these strides, from `start` on.
pub fn places(shape: &[usize], start: usize, strides: &[usize]) -> Vec<usize> {
    let mut places = Vec::with_capacity(shape.iter().product());
    runs(shape, [strides], |count, [at], [step]| places.extend((0..count).map(|i| start + at + i * step)));
    places
}

/// The places in an array that integer indices along an axis name: one index for each row, or for each element; negative ones count
/// from the end.
pub fn named(shape: &[usize], axis: usize, indices: &Array, are_rows: bool) -> Result<Vec<usize>> {
    let length = shape[axis];
    let [outer, inner] = [&shape[..axis], &shape[axis + 1..]].map(|lengths| lengths.iter().product::<usize>());
    let counted = |&index: &i64| match if index < 0 { index + length as i64 } else { index } {
        place if (0..length as i64).contains(&place) => Ok(place as usize),
        _ => Err(Error::plugin(format!("index {index} is outside of an axis of length {length}"))),
    };
    let indices = indices.read::<i64>().iter().map(counted).collect::<Result<Vec<_>>>()?;
    let block = if are_rows { indices.len() * inner } else { indices.len() / outer.max(1) };
    let index = |i| indices[if are_rows { i / inner % indices.len() } else { i }];
    Ok((0..outer * block).map(|i| (i / block * length + index(i)) * inner + i % inner).collect())
}

/// Elements of `x` at these places.
pub fn pick(x: &Array, places: &[usize], to: &TensorType) -> Array {
    let mut result = Array::zeros(to);
    with_number!(x.dtype, T => {
        let from = x.elements::<T>();
        result.elements_mut::<T>().iter_mut().zip(places).for_each(|(to, &place)| *to = from[place]);
    });
    result
}

/// Puts the elements of `updates` at these places.
pub fn put(mut x: Array, places: &[usize], updates: &Array) -> Array {
    with_number!(x.dtype, T => {
        let to = x.elements_mut::<T>();
        places.iter().zip(updates.elements::<T>()).for_each(|(&place, &x)| to[place] = x);
    });
    x
}

/// A copy, which shares no memory.
pub fn copy(x: &Array) -> Array {
    pick(x, &places(&x.shape, 0, &row_major(&x.shape)), x)
}

/// `x` repeated to a shape.
pub fn repeated(x: &Array, shape: &[usize]) -> Array {
    let to = TensorType { shape: shape.to_vec(), dtype: x.dtype };
    if x.shape == shape { x.clone() } else { pick(x, &places(shape, 0, &broadcast(&x.shape, shape)), &to) }
}

/// `a` where `condition` holds, else `b`.
pub fn choose(condition: &Array, a: &Array, b: &Array, to: &TensorType) -> Array {
    let mut result = Array::zeros(to);
    let condition = repeated(&condition.cast(Dtype::BOOL), &to.shape);
    let [a, b] = [a, b].map(|x| repeated(&x.cast(to.dtype), &to.shape));
    with_number!(to.dtype, T => {
        let both = a.elements::<T>().iter().zip(b.elements::<T>()).zip(condition.elements::<u8>());
        let elements = result.elements_mut::<T>().iter_mut().zip(both);
        elements.for_each(|(to, ((&a, &b), &holds))| *to = if holds != 0 { a } else { b });
    });
    result
}
