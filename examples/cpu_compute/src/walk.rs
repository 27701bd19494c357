//! Walks through several arrays of one shape at a time, in row-major order, each with strides of its own; and what is only that:
//! moving elements.

use mdt_plugin_api::{Error, Result, TensorType};

use crate::array::Array;

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

/// Runs an expression with `$type` as a type of the size of an element type's elements, which are only moved.
macro_rules! with_size {
    ($dtype:expr, $type:ident => $body:expr) => {
        with_size!(@ $dtype, $type => $body; 1 u8, 2 u16, 4 u32, 8 u64)
    };
    (@ $dtype:expr, $type:ident => $body:expr; $($size:literal $rust:ty),*) => {
        match $dtype.size() {
            $($size => { type $type = $rust; $body })*
            size => unreachable!("no element has {size} bytes"),
        }
    };
}

/// The elements of `x` from place `start` on with these strides.
pub fn gather(x: &Array, kind: &TensorType, start: usize, strides: &[usize]) -> Array {
    let mut result = Array::zeros(kind);
    with_size!(kind.dtype, T => {
        let (from, to) = (x.elements::<T>(), result.elements_mut::<T>());
        runs(&kind.shape, [&row_major(&kind.shape), strides], |count, [at, place], [_, step]| match step {
            1 => to[at..at + count].copy_from_slice(&from[start + place..][..count]),
            _ => (0..count).for_each(|i| to[at + i] = from[start + place + i * step]),
        });
    });
    result
}

/// Puts the elements of `update` into `to` from place `start` on; the strides are those of `to`.
pub fn put(to: &mut Array, update: &Array, start: usize, strides: &[usize]) {
    with_size!(update.dtype, T => {
        let (from, to) = (update.elements::<T>(), to.elements_mut::<T>());
        runs(&update.shape, [&row_major(&update.shape), strides], |count, [at, place], [_, step]| match step {
            1 => to[start + place..][..count].copy_from_slice(&from[at..at + count]),
            _ => (0..count).for_each(|i| to[start + place + i * step] = from[at + i]),
        });
    });
}

/// A copy of a tensor, which shares nothing.
pub fn copy(x: &Array) -> Array {
    gather(x, x, 0, &row_major(&x.shape))
}

/// `a` where `condition` holds, else `b`, all of one shape.
pub fn choose(condition: &Array, a: &Array, b: &Array) -> Array {
    let mut result = copy(b);
    with_size!(a.dtype, T => {
        let places = result.elements_mut::<T>().iter_mut().zip(a.elements::<T>()).zip(condition.elements::<u8>());
        places.for_each(|((to, &a), &holds)| *to = if holds != 0 { a } else { *to });
    });
    result
}

/// The places in `x` that integer indices along an axis name: one index for each row, or for each element; negative ones count from
/// the end.
pub fn places(x: &Array, indices: &Array, axis: usize, are_rows: bool) -> Result<Vec<usize>> {
    let length = x.shape[axis];
    let inner: usize = x.shape[axis + 1..].iter().product();
    let outer: usize = x.shape[..axis].iter().product();
    let index = |&index: &i64| {
        let place = if index < 0 { index + length as i64 } else { index };
        usize::try_from(place)
            .ok()
            .filter(|&place| place < length)
            .ok_or_else(|| Error::plugin(format!("index {index} is outside of an axis of length {length}")))
    };
    let indices = indices.read::<i64>().iter().map(index).collect::<Result<Vec<_>>>()?;
    Ok(match are_rows {
        true => {
            let rows = (0..outer).flat_map(|outer| indices.iter().map(move |index| (outer * length + index) * inner));
            rows.flat_map(|start| start..start + inner).collect()
        }
        false => {
            let block = (indices.len() / outer.max(1)).max(1);
            let all = indices.iter().enumerate();
            all.map(|(i, index)| (i / block * length + index) * inner + i % inner).collect()
        }
    })
}

/// Elements of `x` at these places.
pub fn pick(x: &Array, places: &[usize], kind: &TensorType) -> Array {
    let mut result = Array::zeros(kind);
    with_size!(kind.dtype, T => {
        let from = x.elements::<T>();
        result.elements_mut::<T>().iter_mut().zip(places).for_each(|(to, &place)| *to = from[place]);
    });
    result
}

/// `x` with these elements at these places.
pub fn replace(x: &Array, places: &[usize], updates: &Array) -> Array {
    let mut result = copy(x);
    with_size!(x.dtype, T => {
        let to = result.elements_mut::<T>();
        places.iter().zip(updates.elements::<T>()).for_each(|(&place, &x)| to[place] = x);
    });
    result
}
