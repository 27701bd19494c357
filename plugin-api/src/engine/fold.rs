//! The fold of all ranks' elements by the pairwise tree.

use std::ops::Add;

use crate::{Dtype, Error, ReduceOp, Result, bf16, f16};

/// The element types that [`fold`] folds.
pub const FOLDED: [Dtype; 8] =
    [Dtype::F32, Dtype::F64, Dtype::BF16, Dtype::F16, Dtype::I32, Dtype::I64, Dtype::U32, Dtype::U64];

/// Bytes of every rank that are folded at once, so that all ranks' stay in the nearest caches.
const BLOCK: usize = 4096;

/// Folds element i of all ranks by the pairwise tree of [`Communicator`](crate::Communicator), in the precision of the
/// element; half-precision ones are computed in f32 and rounded at every node. The first rank's memory has the result, what
/// the others' holds is undefined.
///
/// # Errors
/// A type that is none of [`FOLDED`]; ranks with different numbers of bytes.
pub fn fold(dtype: Dtype, op: ReduceOp, ranks: &mut [&mut [u8]]) -> Result<()> {
    let bytes = ranks.first().map_or(0, |first| first.len());
    if ranks.iter().any(|rank| rank.len() != bytes) || !bytes.is_multiple_of(dtype.size().max(1)) {
        return Err(Error::plugin("ranks cannot be folded that have different numbers of elements"));
    }
    match dtype {
        Dtype::F32 => by_tree::<f32, 4>(ranks, op, f32::from_ne_bytes, f32::to_ne_bytes),
        Dtype::F64 => by_tree::<f64, 8>(ranks, op, f64::from_ne_bytes, f64::to_ne_bytes),
        Dtype::BF16 => {
            by_tree::<Half<bf16>, 2>(ranks, op, |bytes| Half(bf16::from_ne_bytes(bytes)), |half| half.0.to_ne_bytes())
        }
        Dtype::F16 => {
            by_tree::<Half<f16>, 2>(ranks, op, |bytes| Half(f16::from_ne_bytes(bytes)), |half| half.0.to_ne_bytes())
        }
        Dtype::I32 => by_tree::<i32, 4>(ranks, op, i32::from_ne_bytes, i32::to_ne_bytes),
        Dtype::I64 => by_tree::<i64, 8>(ranks, op, i64::from_ne_bytes, i64::to_ne_bytes),
        Dtype::U32 => by_tree::<u32, 4>(ranks, op, u32::from_ne_bytes, u32::to_ne_bytes),
        Dtype::U64 => by_tree::<u64, 8>(ranks, op, u64::from_ne_bytes, u64::to_ne_bytes),
        other => return Err(Error::plugin(format!("{other} cannot be reduced, only broadcast and gathered"))),
    }
    Ok(())
}

/// A number that can be summed and compared.
trait Number: Copy + PartialOrd {
    fn sum(self, other: Self) -> Self;
}

macro_rules! numbers {
    ($($type:ty: $sum:path;)*) => { $(impl Number for $type {
        fn sum(self, other: Self) -> Self {
            $sum(self, other)
        }
    })* };
}
numbers! {
    f32: Add::add;
    f64: Add::add;
    i32: i32::wrapping_add;
    i64: i64::wrapping_add;
    u32: u32::wrapping_add;
    u64: u64::wrapping_add;
}

/// A number of half precision.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
struct Half<T>(T);

impl Number for Half<bf16> {
    fn sum(self, other: Self) -> Self {
        Self(bf16::from_f32(self.0.to_f32() + other.0.to_f32()))
    }
}

impl Number for Half<f16> {
    fn sum(self, other: Self) -> Self {
        Self(f16::from_f32(self.0.to_f32() + other.0.to_f32()))
    }
}

/// The first where they compare equal, and what is not a number wherever there is one.
fn chosen<T: PartialOrd>(first: bool, a: T, b: T) -> T {
    if first || a.partial_cmp(&a).is_none() { a } else { b }
}

fn by_tree<T: Number, const SIZE: usize>(
    ranks: &mut [&mut [u8]],
    op: ReduceOp,
    read: impl Fn([u8; SIZE]) -> T + Copy,
    write: impl Fn(T) -> [u8; SIZE] + Copy,
) {
    match op {
        ReduceOp::Sum => combined(ranks, |a, b| write(read(a).sum(read(b)))),
        ReduceOp::Max => combined(ranks, |a, b| {
            let (a, b) = (read(a), read(b));
            write(chosen(a >= b, a, b))
        }),
        ReduceOp::Min => combined(ranks, |a, b| {
            let (a, b) = (read(a), read(b));
            write(chosen(a <= b, a, b))
        }),
    }
}

fn combined<const SIZE: usize>(ranks: &mut [&mut [u8]], combine: impl Fn([u8; SIZE], [u8; SIZE]) -> [u8; SIZE] + Copy) {
    let bytes = ranks.first().map_or(0, |first| first.len());
    for start in (0..bytes).step_by(BLOCK) {
        let block = start..bytes.min(start + BLOCK);
        let mut step = 1;
        while step < ranks.len() {
            for left in (0..ranks.len() - step).step_by(2 * step) {
                let (lefts, rights) = ranks.split_at_mut(left + step);
                let (left, _) = lefts[left][block.clone()].as_chunks_mut::<SIZE>();
                let (right, _) = rights[0][block.clone()].as_chunks::<SIZE>();
                left.iter_mut().zip(right).for_each(|(left, right)| *left = combine(*left, *right));
            }
            step *= 2;
        }
    }
}
