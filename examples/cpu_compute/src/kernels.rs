//! Loops that compute: element by element, reductions, running sums, orders, random numbers. Those of one element are written for
//! real numbers (f32) and for whole ones (i64); sums of f32 are f64 until they are complete.

use mdt_plugin_api::TensorType;

use crate::array::{Array, Number};
use crate::walk::{broadcast, reduced, row_major, runs};

/// `f` of every element.
pub fn map<W: Number, R: Number>(x: &Array, to: &TensorType, f: impl Fn(W) -> R) -> Array {
    Array::build(to, |out| out.iter_mut().zip(&*x.read::<W>()).for_each(|(out, &x)| *out = f(x)))
}

/// `f` of the elements of two tensors, which are broadcast.
pub fn zip<W: Number, R: Number>(a: &Array, b: &Array, to: &TensorType, f: impl Fn(W, W) -> R) -> Array {
    let shape = &to.shape[..];
    let strides = [row_major(shape), broadcast(&a.shape, shape), broadcast(&b.shape, shape)];
    let (a, b) = (&*a.read::<W>(), &*b.read::<W>());
    Array::build(to, |out| {
        runs(shape, strides.each_ref().map(Vec::as_slice), |count, [at, i, j], [_, a_step, b_step]| {
            let out = out[at..at + count].iter_mut();
            // A loop for each, which the compiler turns into vector instructions.
            match (a_step, b_step) {
                (_, 0) => out.zip(&a[i..]).for_each(|(out, &a)| *out = f(a, b[j])),
                (0, _) => out.zip(&b[j..]).for_each(|(out, &b)| *out = f(a[i], b)),
                _ => out.zip(a[i..].iter().zip(&b[j..])).for_each(|(out, (&a, &b))| *out = f(a, b)),
            }
        });
    })
}

/// All elements that fall together when `axes` are reduced, folded one after another.
pub fn reduce<W: Number, S: Number>(
    x: &Array,
    axes: &[usize],
    to: &TensorType,
    start: S,
    fold: impl Fn(S, W) -> S,
) -> Array {
    let (strides, elements) = (broadcast(&reduced(&x.shape, axes), &x.shape), x.read::<W>());
    Array::build(to, |out| {
        out.fill(start);
        runs(&x.shape, [&row_major(&x.shape), &strides], |count, [at, place], [_, step]| {
            let mut run = elements[at..at + count].iter();
            match step {
                0 => out[place] = run.fold(out[place], |state, &x| fold(state, x)),
                _ => out[place..].iter_mut().zip(&mut run).for_each(|(out, &x)| *out = fold(*out, x)),
            }
        });
    })
}

/// A step of a sum.
pub fn add(sum: f64, x: f32) -> f64 {
    sum + f64::from(x)
}

/// `x` with updates added at these places.
pub fn add_at<W: Number>(x: &Array, places: &[usize], updates: &Array, add: impl Fn(W, W) -> W) -> Array {
    Array::build(x, |out| {
        out.copy_from_slice(&x.read());
        places.iter().zip(&*updates.read()).for_each(|(&place, &update)| out[place] = add(out[place], update));
    })
}

/// The places of the elements that differ along one axis only: a list for each such lane.
fn lanes(shape: &[usize], axis: usize) -> impl Iterator<Item = Vec<usize>> {
    let (length, inner) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
    let lanes = shape.iter().product::<usize>().checked_div(length).unwrap_or(0);
    let start = move |lane| lane / inner * length * inner + lane % inner;
    (0..lanes).map(move |lane| (0..length).map(|i| start(lane) + i * inner).collect())
}

/// Sums of the elements along an axis up to each one.
pub fn running_sum<W: Number, S: Number>(
    x: &Array,
    axis: usize,
    [reverse, exclusive]: [bool; 2],
    to: &TensorType,
    add: impl Fn(S, W) -> S,
) -> Array {
    let elements = x.read::<W>();
    Array::build(to, |out| {
        for mut lane in lanes(&x.shape, axis) {
            if reverse {
                lane.reverse();
            }
            let mut sum = S::default();
            for place in lane {
                let before = sum;
                sum = add(sum, elements[place]);
                out[place] = if exclusive { before } else { sum };
            }
        }
    })
}

/// The order of the elements along an axis; see `argsort`.
pub fn order<W: Number>(x: &Array, axis: usize, to: &TensorType, is_descending: bool) -> Array {
    let elements = x.read::<W>();
    // What has no order is NaN, which is larger than all numbers.
    let is_nan = |x: W| x.partial_cmp(&x).is_none();
    let compare = |a: W, b: W| a.partial_cmp(&b).unwrap_or_else(|| is_nan(a).cmp(&is_nan(b)));
    Array::build(to, |out| {
        for lane in lanes(&x.shape, axis) {
            let mut order: Vec<usize> = (0..lane.len()).collect();
            order.sort_by(|&i, &j| {
                let ordering = compare(elements[lane[i]], elements[lane[j]]);
                if is_descending { ordering.reverse() } else { ordering }
            });
            lane.into_iter().zip(order).for_each(|(place, index)| out[place] = index as i32);
        }
    })
}

/// Threefry-2x32 with 20 rounds (Salmon et al. 2011).
fn threefry([a, b]: [u32; 2], counter: [u32; 2]) -> [u32; 2] {
    const ROTATIONS: [[u32; 4]; 2] = [[13, 15, 26, 6], [17, 29, 16, 24]];
    let keys = [a, b, a ^ b ^ 0x1bd1_1bda];
    let mut x = [counter[0].wrapping_add(a), counter[1].wrapping_add(b)];
    for round in 0..5 {
        for rotation in ROTATIONS[round % 2] {
            x[0] = x[0].wrapping_add(x[1]);
            x[1] = x[1].rotate_left(rotation) ^ x[0];
        }
        x[0] = x[0].wrapping_add(keys[(round + 1) % 3]);
        x[1] = x[1].wrapping_add(keys[(round + 2) % 3]).wrapping_add(round as u32 + 1);
    }
    x
}

/// Numbers from [0, 1); see `random_uniform`.
pub fn uniform(key: i64, to: &TensorType) -> Array {
    let number = |bits: u32| (bits as f32 / 4_294_967_296.0).min(1.0 - f32::EPSILON / 2.0);
    Array::build(to, |out| {
        let (count, half) = (out.len(), out.len().div_ceil(2));
        for (i, second) in (half..2 * half).enumerate() {
            let counter = [i as u32, if second < count { second as u32 } else { 0 }];
            let bits = threefry([(key >> 32) as u32, key as u32], counter);
            out[i] = number(bits[0]);
            if second < count {
                out[second] = number(bits[1]);
            }
        }
    })
}

/// The larger one of two, or the NaN.
pub fn larger(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

/// The smaller one of two, or the NaN.
pub fn smaller(a: f32, b: f32) -> f32 {
    if a < b || a.is_nan() { a } else { b }
}

/// The largest whole number not above `a / b`: in f64, where no quotient of two f32 is rounded to a whole number that it is not.
pub fn floor_divide(a: f32, b: f32) -> f64 {
    (f64::from(a) / f64::from(b)).floor()
}

/// The same of whole numbers; 0 where b is 0.
pub fn floor_divide_whole(a: i64, b: i64) -> i64 {
    match b {
        0 => 0,
        _ => a.wrapping_div(b) - i64::from(a.wrapping_rem(b) != 0 && (a < 0) != (b < 0)),
    }
}

/// The error function by its series of positive terms, `2/√π · exp(-x²) · Σ 2ⁿ x²ⁿ⁺¹ / (1·3·…·(2n+1))`; beyond 4 it rounds to 1.
pub fn erf(x: f32) -> f32 {
    if x.is_nan() || x.abs() > 4.0 {
        return x.signum();
    }
    let x = f64::from(x);
    let (mut term, mut sum, mut n) = (x, x, 1.0);
    while sum + term != sum {
        n += 2.0;
        term *= 2.0 * x * x / n;
        sum += term;
    }
    (std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum) as f32
}
