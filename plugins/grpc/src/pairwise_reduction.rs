//! The reduction of what all ranks contributed, by the pairwise tree over ranks.
//!
//! Rank r is leaf r. Neighbours are combined first, then neighbours of those: ((0+1)+(2+3))+((4+5)+…). A count that is
//! no power of two is split at the largest one below it. The host folds its micro-batches by the same tree, so ranks that
//! each hold a power of two of them continue it, and the bits do not depend on how many ranks there are.
//!
//! f16 and bf16 are folded by the same tree in f32, and the result is rounded once, to the nearest, ties to even. A mean is
//! the sum with one division at the end, before that rounding; of integers it is rounded towards zero.

use bytemuck::{Pod, Zeroable, cast_slice_mut, pod_read_unaligned};
use mdt_plugin_api::{Dtype, ReduceOp, bf16, f16};

/// Element types that are reduced.
pub(crate) const REDUCED: [Dtype; 8] =
    [Dtype::F32, Dtype::F64, Dtype::BF16, Dtype::F16, Dtype::I32, Dtype::I64, Dtype::U32, Dtype::U64];

/// How elements are combined, all of them.
pub(crate) const OPS: [ReduceOp; 4] = [ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min, ReduceOp::Mean];

/// Elements that are folded at once: what a level of the tree keeps stays in the nearest cache.
const BLOCK: usize = 512;

/// One rank's elements as they came over the wire; nothing for this rank, whose elements are in place.
pub(crate) type Leaf<'a> = Option<&'a [u8]>;

/// An element type.
trait Element {
    /// An element as it is in memory.
    type Stored: Pod;
    /// What partial results are kept in.
    type Partial: Number;

    fn widen(stored: Self::Stored) -> Self::Partial;
    fn narrow(partial: Self::Partial) -> Self::Stored;
}

/// A type whose values can be combined.
trait Number: Pod + PartialOrd {
    /// The sum.
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
    ($($type:ident, $sum:expr;)*) => { $(
        impl Number for $type {
            fn add(self, other: Self) -> Self {
                $sum(self, other)
            }

            fn divided(self, ranks: u32) -> Self {
                self / ranks as $type
            }
        }

        impl Element for $type {
            type Stored = $type;
            type Partial = $type;

            fn widen(stored: $type) -> $type {
                stored
            }

            fn narrow(partial: $type) -> $type {
                partial
            }
        }
    )* };
}
numbers! {
    f32, std::ops::Add::add;
    f64, std::ops::Add::add;
    i32, i32::wrapping_add;
    i64, i64::wrapping_add;
    u32, u32::wrapping_add;
    u64, u64::wrapping_add;
}

macro_rules! halves {
    ($($type:ident)*) => { $(
        impl Element for $type {
            type Stored = u16;
            type Partial = f32;

            fn widen(stored: u16) -> f32 {
                $type::from_bits(stored).to_f32()
            }

            fn narrow(partial: f32) -> u16 {
                $type::from_f32(partial).to_bits()
            }
        }
    )* };
}
halves! { bf16 f16 }

/// Runs one of the two for the element type of `dtype`. Other types are refused when a collective begins.
macro_rules! of_type {
    ($dtype:expr, $function:ident($($argument:expr),*)) => {
        match $dtype {
            Dtype::F32 => $function::<f32>($($argument),*),
            Dtype::F64 => $function::<f64>($($argument),*),
            Dtype::BF16 => $function::<bf16>($($argument),*),
            Dtype::F16 => $function::<f16>($($argument),*),
            Dtype::I32 => $function::<i32>($($argument),*),
            Dtype::I64 => $function::<i64>($($argument),*),
            Dtype::U32 => $function::<u32>($($argument),*),
            Dtype::U64 => $function::<u64>($($argument),*),
            _ => {}
        }
    };
}

/// Whether partial results of this type are elements of it, so that ranks can exchange them.
pub(crate) fn partials_are_elements(dtype: Dtype) -> bool {
    REDUCED.contains(&dtype) && dtype != Dtype::BF16 && dtype != Dtype::F16
}

/// Folds all ranks' elements, which are of a type in [`REDUCED`], into `own`, which is this rank's leaf and aligned.
pub(crate) fn reduce_bytes(dtype: Dtype, op: ReduceOp, own: &mut [u8], leaves: &[Leaf<'_>]) {
    of_type!(dtype, reduce(own, leaves, op));
}

/// Divides sums of so many ranks.
pub(crate) fn divide_bytes(dtype: Dtype, sums: &mut [u8], ranks: u32) {
    of_type!(dtype, divide(sums, ranks));
}

fn divide<T: Element>(sums: &mut [u8], ranks: u32) {
    let sums = cast_slice_mut::<u8, T::Stored>(sums);
    sums.iter_mut().for_each(|sum| *sum = T::narrow(T::widen(*sum).divided(ranks)));
}

fn reduce<T: Element>(own: &mut [u8], leaves: &[Leaf<'_>], op: ReduceOp) {
    let (own, ranks) = (cast_slice_mut::<u8, T::Stored>(own), leaves.len() as u32);
    match op {
        ReduceOp::Sum => reduce_by::<T>(own, leaves, T::Partial::add, |sum| sum),
        ReduceOp::Max => reduce_by::<T>(own, leaves, T::Partial::max, |largest| largest),
        ReduceOp::Min => reduce_by::<T>(own, leaves, T::Partial::min, |smallest| smallest),
        ReduceOp::Mean => reduce_by::<T>(own, leaves, T::Partial::add, |sum| sum.divided(ranks)),
        _ => {} // refused when a collective begins
    }
}

fn reduce_by<T: Element>(
    own: &mut [T::Stored],
    leaves: &[Leaf<'_>],
    combine: impl Fn(T::Partial, T::Partial) -> T::Partial + Copy,
    finish: impl Fn(T::Partial) -> T::Partial,
) {
    let mut folded = [T::Partial::zeroed(); BLOCK];
    for (index, own) in own.chunks_mut(BLOCK).enumerate() {
        let folded = &mut folded[..own.len()];
        tree::<T>(own, index * BLOCK, leaves, combine, folded);
        own.iter_mut().zip(&*folded).for_each(|(own, &folded)| *own = T::narrow(finish(folded)));
    }
}

/// Folds a block of these leaves, which begins at element `first`, into `folded`.
fn tree<T: Element>(
    own: &[T::Stored],
    first: usize,
    leaves: &[Leaf<'_>],
    combine: impl Fn(T::Partial, T::Partial) -> T::Partial + Copy,
    folded: &mut [T::Partial],
) {
    let (left, right) = match leaves {
        [] => return,
        [leaf] => {
            match leaf {
                None => folded.iter_mut().zip(own).for_each(|(folded, own)| *folded = T::widen(*own)),
                Some(bytes) => each::<T>(bytes, first, folded, |element, folded| *folded = element),
            }
            return;
        }
        leaves => leaves.split_at(leaves.len().next_power_of_two() / 2),
    };
    tree::<T>(own, first, left, combine, folded);
    match right {
        // The rightmost leaf of a subtree needs no memory of its own.
        [None] => folded.iter_mut().zip(own).for_each(|(left, right)| *left = combine(*left, T::widen(*right))),
        [Some(bytes)] => each::<T>(bytes, first, folded, |right, left| *left = combine(*left, right)),
        right => {
            let mut memory = [T::Partial::zeroed(); BLOCK];
            let other = &mut memory[..folded.len()];
            tree::<T>(own, first, right, combine, other);
            folded.iter_mut().zip(&*other).for_each(|(left, &right)| *left = combine(*left, right));
        }
    }
}

/// Visits each element of a block of a leaf with its place.
fn each<T: Element>(
    bytes: &[u8],
    first: usize,
    places: &mut [T::Partial],
    visit: impl Fn(T::Partial, &mut T::Partial),
) {
    let size = size_of::<T::Stored>();
    let block = &bytes[first * size..(first + places.len()) * size];
    let elements = block.chunks_exact(size).map(|bytes| T::widen(pod_read_unaligned(bytes)));
    elements.zip(places).for_each(|(element, place)| visit(element, place));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The tree as its definition has it.
    fn defined(leaves: &[f32]) -> f32 {
        match leaves {
            [leaf] => *leaf,
            leaves => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                defined(left) + defined(right)
            }
        }
    }

    proptest! {
        #[test]
        fn any_number_of_ranks_folds_by_the_tree_whichever_of_them_folds(
            (ranks, own) in (1usize..=20).prop_flat_map(|count| {
                (prop::collection::vec(prop::collection::vec(-1e3f32..1e3, BLOCK + 9), count), 0..count)
            }),
        ) {
            let leaf = |(rank, values): (usize, &Vec<f32>)| (rank != own).then(|| bytemuck::cast_slice(values).to_vec());
            let leaves: Vec<Option<Vec<u8>>> = ranks.iter().enumerate().map(leaf).collect();
            let leaves: Vec<Leaf<'_>> = leaves.iter().map(Option::as_deref).collect();
            let mut folded = ranks[own].clone();
            reduce_bytes(Dtype::F32, ReduceOp::Sum, bytemuck::cast_slice_mut(&mut folded), &leaves);
            for (index, folded) in folded.iter().enumerate() {
                let leaves: Vec<f32> = ranks.iter().map(|values| values[index]).collect();
                prop_assert_eq!(folded.to_bits(), defined(&leaves).to_bits());
            }
        }
    }

    /// Folds one element of each rank, whichever of them folds.
    fn folded<T: Pod + PartialEq + std::fmt::Debug>(dtype: Dtype, op: ReduceOp, ranks: &[T]) -> T {
        let results: Vec<T> = (0..ranks.len())
            .map(|own| {
                let leaf = |(rank, value)| (rank != own).then(|| bytemuck::bytes_of(value));
                let leaves: Vec<Leaf<'_>> = ranks.iter().enumerate().map(leaf).collect();
                let mut element = [ranks[own]];
                reduce_bytes(dtype, op, bytemuck::cast_slice_mut(&mut element), &leaves);
                element[0]
            })
            .collect();
        let bits = |value: &T| bytemuck::bytes_of(value).to_vec();
        assert!(results.iter().all(|result| bits(result) == bits(&results[0])), "{results:?}");
        results[0]
    }

    #[test]
    fn every_type_and_reduction_has_its_result() {
        use ReduceOp::{Max, Mean, Min, Sum};
        assert_eq!(folded(Dtype::F64, Mean, &[1.0f64, 2.0, 4.5]), 2.5);
        assert_eq!(folded(Dtype::I32, Sum, &[i32::MAX, 1]), i32::MIN, "integers wrap around");
        assert_eq!(folded(Dtype::I64, Mean, &[-7i64, 2]), -2, "rounded towards zero");
        assert_eq!(folded(Dtype::I64, Min, &[-7i64, 2]), -7);
        assert_eq!(folded(Dtype::U64, Max, &[u64::MAX, 2, 3]), u64::MAX);
        assert!(f32::from_bits(folded(Dtype::F32, Max, &[1.0, f32::NAN, 2.0].map(f32::to_bits))).is_nan());
        assert_eq!(folded(Dtype::F32, Sum, &[f32::INFINITY, 1.0]), f32::INFINITY);
        assert_eq!(folded(Dtype::F32, Sum, &[-0.0f32, -0.0]).to_bits(), (-0.0f32).to_bits());
        let denormal = f32::from_bits(1);
        assert_eq!(folded(Dtype::F32, Sum, &[denormal, denormal]), f32::from_bits(2));
        assert_eq!(folded(Dtype::F16, Sum, &[f16::MAX.to_bits(); 2]), f16::INFINITY.to_bits());
    }

    #[test]
    fn halves_are_folded_in_single_precision_and_rounded_once() {
        let sum = |values: [f32; 4]| {
            let bits = values.map(|value| bf16::from_f32(value).to_bits());
            bf16::from_bits(folded(Dtype::BF16, ReduceOp::Sum, &bits)).to_f32()
        };
        assert_eq!(sum([256.0, 1.0, 1.0, 1.0]), 260.0, "each step rounded would give 256");
        let f16s = [2048.0, 1.0, 1.0, 1.0].map(|value| f16::from_f32(value).to_bits());
        assert_eq!(f16::from_bits(folded(Dtype::F16, ReduceOp::Sum, &f16s)).to_f32(), 2052.0);
        let bf16s = [1.0, 2.0].map(|value| bf16::from_f32(value).to_bits());
        assert_eq!(bf16::from_bits(folded(Dtype::BF16, ReduceOp::Mean, &bf16s)).to_f32(), 1.5);
    }
}
