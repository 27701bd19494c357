//! The fold of all ranks' elements by the pairwise tree.

use std::ops::Add;

use crate::{Dtype, Error, ReduceOp, Result, bf16, f16};

/// The element types that [`fold`] folds.
pub const FOLDED: [Dtype; 8] =
    [Dtype::F32, Dtype::F64, Dtype::BF16, Dtype::F16, Dtype::I32, Dtype::I64, Dtype::U32, Dtype::U64];

/// Bytes of every rank that are folded at once, so that all ranks' stay in the nearest caches.
const BLOCK: usize = 4096;

/// Folds element i of all ranks by the pairwise tree of [`Communicator`](crate::Communicator), in the precision of the
/// element; half-precision ones are folded in f32 and rounded once. The first rank's memory has the result, what the others'
/// holds is undefined.
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
            widened(ranks, op, |half| bf16::from_ne_bytes(half).to_f32(), |sum| bf16::from_f32(sum).to_ne_bytes())
        }
        Dtype::F16 => {
            widened(ranks, op, |half| f16::from_ne_bytes(half).to_f32(), |sum| f16::from_f32(sum).to_ne_bytes())
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

    /// The sum of so many ranks, divided.
    fn divided(self, ranks: usize) -> Self;
}

macro_rules! numbers {
    ($($type:ty: $sum:path;)*) => { $(impl Number for $type {
        fn sum(self, other: Self) -> Self {
            $sum(self, other)
        }

        fn divided(self, ranks: usize) -> Self {
            self / ranks as $type
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
        ReduceOp::Mean => {
            combined(ranks, |a, b| write(read(a).sum(read(b))));
            let count = ranks.len();
            let (sums, _) = ranks.first_mut().map(|first| first.as_chunks_mut::<SIZE>()).unwrap_or_default();
            sums.iter_mut().for_each(|sum| *sum = write(read(*sum).divided(count)));
        }
    }
}

/// Folds numbers of half precision.
fn widened(ranks: &mut [&mut [u8]], op: ReduceOp, read: impl Fn([u8; 2]) -> f32, write: impl Fn(f32) -> [u8; 2]) {
    let bytes = ranks.first().map_or(0, |first| first.len());
    for start in (0..bytes).step_by(BLOCK) {
        let block = start..bytes.min(start + BLOCK);
        let wide = |rank: &&mut [u8]| -> Vec<u8> {
            let (halves, _) = rank[block.clone()].as_chunks::<2>();
            halves.iter().flat_map(|half| read(*half).to_ne_bytes()).collect()
        };
        let mut wide: Vec<Vec<u8>> = ranks.iter().map(wide).collect();
        let mut leaves: Vec<&mut [u8]> = wide.iter_mut().map(Vec::as_mut_slice).collect();
        by_tree::<f32, 4>(&mut leaves, op, f32::from_ne_bytes, f32::to_ne_bytes);
        let (results, _) = leaves[0].as_chunks::<4>();
        let (halves, _) = ranks[0][block].as_chunks_mut::<2>();
        halves.iter_mut().zip(results).for_each(|(half, result)| *half = write(f32::from_ne_bytes(*result)));
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
