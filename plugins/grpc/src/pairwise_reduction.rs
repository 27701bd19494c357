//! The reduction of what all ranks contributed, by the pairwise tree over ranks.
//!
//! Rank r is leaf r. Neighbours are combined first, then neighbours of those: ((0+1)+(2+3))+((4+5)+…). A count that is
//! no power of two is split at the largest one below it. The host folds its micro-batches by the same tree, so ranks that
//! each hold a power of two of them continue it, and the bits do not depend on how many ranks there are.

use bytemuck::{Pod, cast_slice_mut, pod_read_unaligned};
use mdt_plugin_api::{Dtype, ReduceOp};

/// Elements that are folded at once: what a level of the tree keeps stays in the nearest cache.
const BLOCK: usize = 512;

/// One rank's elements as they came over the wire; nothing for this rank, whose elements are in place.
pub(crate) type Leaf<'a> = Option<&'a [u8]>;

/// A type whose elements can be combined.
pub(crate) trait Number: Pod + PartialOrd {
    /// The sum.
    fn add(self, other: Self) -> Self;

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
        }
    )* };
}
numbers! {
    f32, std::ops::Add::add;
    f64, std::ops::Add::add;
    u64, u64::wrapping_add;
}

/// Folds all ranks' elements, of a type that is reduced, into `own`, which is this rank's leaf and aligned.
pub(crate) fn reduce_bytes(dtype: Dtype, op: ReduceOp, own: &mut [u8], leaves: &[Leaf<'_>]) {
    match dtype {
        Dtype::F32 => reduce::<f32>(cast_slice_mut(own), leaves, op),
        Dtype::F64 => reduce::<f64>(cast_slice_mut(own), leaves, op),
        Dtype::U64 => reduce::<u64>(cast_slice_mut(own), leaves, op),
        _ => {} // refused when the collective was begun
    }
}

/// Folds all ranks' elements into `own`, which is this rank's leaf.
pub(crate) fn reduce<T: Number>(own: &mut [T], leaves: &[Leaf<'_>], op: ReduceOp) {
    match op {
        ReduceOp::Sum => reduce_by(own, leaves, T::add),
        ReduceOp::Max => reduce_by(own, leaves, T::max),
        ReduceOp::Min => reduce_by(own, leaves, T::min),
    }
}

fn reduce_by<T: Number>(own: &mut [T], leaves: &[Leaf<'_>], combine: impl Fn(T, T) -> T + Copy) {
    let mut folded = [T::zeroed(); BLOCK];
    for (index, own) in own.chunks_mut(BLOCK).enumerate() {
        let folded = &mut folded[..own.len()];
        tree(own, index * BLOCK, leaves, combine, folded);
        own.copy_from_slice(folded);
    }
}

/// Folds a block of these leaves, which begins at element `first`, into `folded`.
fn tree<T: Number>(own: &[T], first: usize, leaves: &[Leaf<'_>], combine: impl Fn(T, T) -> T + Copy, folded: &mut [T]) {
    let (left, right) = match leaves {
        [] => return,
        [leaf] => {
            match leaf {
                None => folded.copy_from_slice(own),
                Some(bytes) => each(bytes, first, folded, |element, folded| *folded = element),
            }
            return;
        }
        leaves => leaves.split_at(leaves.len().next_power_of_two() / 2),
    };
    tree(own, first, left, combine, folded);
    match right {
        // The rightmost leaf of a subtree needs no memory of its own.
        [None] => folded.iter_mut().zip(own).for_each(|(left, &right)| *left = combine(*left, right)),
        [Some(bytes)] => each(bytes, first, folded, |right, left| *left = combine(*left, right)),
        right => {
            let mut memory = [T::zeroed(); BLOCK];
            let other = &mut memory[..folded.len()];
            tree(own, first, right, combine, other);
            folded.iter_mut().zip(&*other).for_each(|(left, &right)| *left = combine(*left, right));
        }
    }
}

/// Visits each element of a block of a leaf with its place.
fn each<T: Number>(bytes: &[u8], first: usize, places: &mut [T], visit: impl Fn(T, &mut T)) {
    let block = &bytes[first * size_of::<T>()..(first + places.len()) * size_of::<T>()];
    block.chunks_exact(size_of::<T>()).zip(places).for_each(|(bytes, place)| visit(pod_read_unaligned(bytes), place));
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
            reduce(&mut folded, &leaves, ReduceOp::Sum);
            for (index, folded) in folded.iter().enumerate() {
                let leaves: Vec<f32> = ranks.iter().map(|values| values[index]).collect();
                prop_assert_eq!(folded.to_bits(), defined(&leaves).to_bits());
            }
        }
    }
}
