//! The fold of all ranks' elements by the pairwise tree over ranks.
//!
//! Rank r is leaf r. Neighbours are combined first, then neighbours of those: ((0+1)+(2+3))+((4+5)+…). A count that is
//! no power of two is split at the largest one below it. The host folds its micro-batches by the same tree, so ranks that
//! each hold a power of two of them continue it, and the bits do not depend on how many ranks there are.
//!
//! f16 and bf16 are folded by the same tree in f32, and the result is rounded once, to the nearest, ties to even. A mean is
//! the sum with one division at the end, before that rounding; of integers it is rounded towards zero. Sums of integers wrap
//! around.

use crate::{Dtype, Error, ReduceOp, Result, bf16, f16};

/// The element types that [`fold`] folds.
pub const FOLDED: [Dtype; 8] =
    [Dtype::F32, Dtype::F64, Dtype::BF16, Dtype::F16, Dtype::I32, Dtype::I64, Dtype::U32, Dtype::U64];

/// Elements that are folded at once: what a level of the tree keeps stays in the nearest cache.
const BLOCK: usize = 512;

/// One rank's elements; `None` for the rank whose elements are where the result goes.
pub type Leaf<'a> = Option<&'a [u8]>;

/// Folds element i of all ranks into `own`, which may be the elements of one of them. No memory need be aligned.
///
/// # Errors
/// A type that is none of [`FOLDED`]; ranks with different numbers of bytes.
pub fn fold(dtype: Dtype, op: ReduceOp, own: &mut [u8], leaves: &[Leaf<'_>]) -> Result<()> {
    let is_whole = own.len().is_multiple_of(dtype.size().max(1));
    if !is_whole || leaves.iter().flatten().any(|leaf| leaf.len() != own.len()) {
        return Err(Error::plugin("ranks cannot be folded that have different numbers of elements"));
    }
    of_type(dtype, Fold { op, own, leaves })
}

/// Divides sums of so many ranks, as [`ReduceOp::Mean`] does at the end.
///
/// # Errors
/// A type that is none of [`FOLDED`].
pub fn divide(dtype: Dtype, sums: &mut [u8], ranks: u32) -> Result<()> {
    of_type(dtype, Divide { sums, ranks })
}

/// Whether partial results of this type are elements of it, so that ranks can exchange them.
pub fn partials_are_elements(dtype: Dtype) -> bool {
    FOLDED.contains(&dtype) && dtype != Dtype::BF16 && dtype != Dtype::F16
}

/// What is done with elements of any type.
trait Task {
    fn run<T: Element<SIZE>, const SIZE: usize>(self);
}

fn of_type(dtype: Dtype, task: impl Task) -> Result<()> {
    match dtype {
        Dtype::F32 => task.run::<f32, 4>(),
        Dtype::F64 => task.run::<f64, 8>(),
        Dtype::BF16 => task.run::<bf16, 2>(),
        Dtype::F16 => task.run::<f16, 2>(),
        Dtype::I32 => task.run::<i32, 4>(),
        Dtype::I64 => task.run::<i64, 8>(),
        Dtype::U32 => task.run::<u32, 4>(),
        Dtype::U64 => task.run::<u64, 8>(),
        other => return Err(Error::plugin(format!("{other} cannot be reduced, only broadcast and gathered"))),
    }
    Ok(())
}

/// An element type of so many bytes.
trait Element<const SIZE: usize> {
    /// What partial results are kept in.
    type Partial: Number;

    fn read(bytes: [u8; SIZE]) -> Self::Partial;
    fn write(partial: Self::Partial) -> [u8; SIZE];
}

/// A type whose values can be combined.
trait Number: Copy + Default + PartialOrd {
    fn add(self, other: Self) -> Self;

    /// The sum of so many ranks, divided.
    fn divided(self, ranks: u32) -> Self;

    /// The larger; the first where they compare equal, and what is not a number wherever there is one.
    fn max(self, other: Self) -> Self {
        if self >= other || self.is_nan() { self } else { other }
    }

    /// The smaller; the first where they compare equal, and what is not a number wherever there is one.
    fn min(self, other: Self) -> Self {
        if self <= other || self.is_nan() { self } else { other }
    }

    /// Whether it compares with nothing.
    fn is_nan(self) -> bool {
        self.partial_cmp(&self).is_none()
    }
}

macro_rules! numbers {
    ($($type:ident, $size:literal, $sum:expr;)*) => { $(
        impl Number for $type {
            fn add(self, other: Self) -> Self {
                $sum(self, other)
            }

            fn divided(self, ranks: u32) -> Self {
                self / ranks as $type
            }
        }

        impl Element<$size> for $type {
            type Partial = $type;

            fn read(bytes: [u8; $size]) -> $type {
                $type::from_ne_bytes(bytes)
            }

            fn write(partial: $type) -> [u8; $size] {
                partial.to_ne_bytes()
            }
        }
    )* };
}
numbers! {
    f32, 4, std::ops::Add::add;
    f64, 8, std::ops::Add::add;
    i32, 4, i32::wrapping_add;
    i64, 8, i64::wrapping_add;
    u32, 4, u32::wrapping_add;
    u64, 8, u64::wrapping_add;
}

macro_rules! halves {
    ($($type:ident)*) => { $(
        impl Element<2> for $type {
            type Partial = f32;

            fn read(bytes: [u8; 2]) -> f32 {
                $type::from_ne_bytes(bytes).to_f32()
            }

            fn write(partial: f32) -> [u8; 2] {
                $type::from_f32(partial).to_ne_bytes()
            }
        }
    )* };
}
halves! { bf16 f16 }

struct Divide<'a> {
    sums: &'a mut [u8],
    ranks: u32,
}

impl Task for Divide<'_> {
    fn run<T: Element<SIZE>, const SIZE: usize>(self) {
        let (sums, _) = self.sums.as_chunks_mut::<SIZE>();
        sums.iter_mut().for_each(|sum| *sum = T::write(T::read(*sum).divided(self.ranks)));
    }
}

struct Fold<'a> {
    op: ReduceOp,
    own: &'a mut [u8],
    leaves: &'a [Leaf<'a>],
}

impl Task for Fold<'_> {
    fn run<T: Element<SIZE>, const SIZE: usize>(self) {
        let ranks = self.leaves.len() as u32;
        match self.op {
            ReduceOp::Sum => self.by::<T, SIZE>(T::Partial::add, |sum| sum),
            ReduceOp::Max => self.by::<T, SIZE>(T::Partial::max, |largest| largest),
            ReduceOp::Min => self.by::<T, SIZE>(T::Partial::min, |smallest| smallest),
            ReduceOp::Mean => self.by::<T, SIZE>(T::Partial::add, |sum| sum.divided(ranks)),
        }
    }
}

impl Fold<'_> {
    fn by<T: Element<SIZE>, const SIZE: usize>(
        self,
        combine: impl Fn(T::Partial, T::Partial) -> T::Partial + Copy,
        finish: impl Fn(T::Partial) -> T::Partial,
    ) {
        let (own, _) = self.own.as_chunks_mut::<SIZE>();
        // Two ranks, of which this is one, need one pass over memory.
        if let [None, Some(right)] = self.leaves {
            let pairs = own.iter_mut().zip(right.as_chunks::<SIZE>().0);
            return pairs.for_each(|(own, right)| *own = T::write(finish(combine(T::read(*own), T::read(*right)))));
        }
        if let [Some(left), None] = self.leaves {
            let pairs = own.iter_mut().zip(left.as_chunks::<SIZE>().0);
            return pairs.for_each(|(own, left)| *own = T::write(finish(combine(T::read(*left), T::read(*own)))));
        }
        let mut folded = [T::Partial::default(); BLOCK];
        for (index, own) in own.chunks_mut(BLOCK).enumerate() {
            let folded = &mut folded[..own.len()];
            tree::<T, SIZE>(own, index * BLOCK * SIZE, self.leaves, combine, folded);
            own.iter_mut().zip(&*folded).for_each(|(own, &folded)| *own = T::write(finish(folded)));
        }
    }
}

/// Folds a block of these leaves, which begins at byte `first` of them, into `folded`.
fn tree<'a, T: Element<SIZE>, const SIZE: usize>(
    own: &'a [[u8; SIZE]],
    first: usize,
    leaves: &[Leaf<'a>],
    combine: impl Fn(T::Partial, T::Partial) -> T::Partial + Copy,
    folded: &mut [T::Partial],
) {
    let block = |leaf: Leaf<'a>| match leaf {
        None => own,
        Some(bytes) => bytes[first..first + own.len() * SIZE].as_chunks::<SIZE>().0,
    };
    let (left, right) = match leaves {
        [] => return,
        [leaf] => {
            folded.iter_mut().zip(block(*leaf)).for_each(|(folded, element)| *folded = T::read(*element));
            return;
        }
        leaves => leaves.split_at(leaves.len().next_power_of_two() / 2),
    };
    tree::<T, SIZE>(own, first, left, combine, folded);
    match right {
        // The rightmost leaf of a subtree needs no memory of its own.
        [leaf] => folded.iter_mut().zip(block(*leaf)).for_each(|(left, right)| *left = combine(*left, T::read(*right))),
        right => {
            let mut memory = [T::Partial::default(); BLOCK];
            let other = &mut memory[..folded.len()];
            tree::<T, SIZE>(own, first, right, combine, other);
            folded.iter_mut().zip(&*other).for_each(|(left, &right)| *left = combine(*left, right));
        }
    }
}
