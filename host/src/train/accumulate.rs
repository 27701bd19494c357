//! The sum of an update's micro-batches, folded by one pairwise tree so that it has the same bits wherever it is taken.
//!
//! Micro-batch g is leaf g. Neighbours are added first, then neighbours of those: ((0+1)+(2+3))+((4+5)+…). A rank that
//! holds an aligned block of a power of two leaves has a whole subtree, so a fold over ranks continues the same tree.

use rayon::prelude::*;

/// Elements that one task adds.
const CHUNK: usize = 1 << 16;

/// What a micro-batch, or several, came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Partial {
    /// Gradient of the summed loss, all parameters one after another.
    pub gradient: Vec<f32>,
    /// Scalars that are summed alongside: loss, weight, counts, metrics.
    pub scalars: Vec<f64>,
}

/// Adds partial results as leaves of the tree, in order.
#[derive(Debug, Default)]
pub struct Fold {
    /// Subtrees that wait for their right neighbour, each with the number of its leaves; falling from left to right.
    waiting: Vec<(u64, Partial)>,
    /// Gradient memory for reuse.
    spare: Vec<Vec<f32>>,
}

impl Fold {
    /// Memory for the next leaf's gradient, of any content.
    pub fn buffer(&mut self, length: usize) -> Vec<f32> {
        match self.spare.pop() {
            Some(buffer) if buffer.len() == length => buffer,
            _ => vec![0.0; length],
        }
    }

    /// Gives memory back for reuse.
    pub fn recycle(&mut self, buffer: Vec<f32>) {
        self.spare.push(buffer);
    }

    /// Adds the next leaf.
    pub fn push(&mut self, leaf: Partial) {
        let mut subtree = (1, leaf);
        while let Some((leaves, left)) = self.waiting.pop_if(|(leaves, _)| *leaves == subtree.0) {
            subtree = (2 * leaves, self.join(left, subtree.1));
        }
        self.waiting.push(subtree);
    }

    /// The sum of all leaves since the last call; none when there were none.
    pub fn finish(&mut self) -> Option<Partial> {
        let (_, mut sum) = self.waiting.pop()?;
        while let Some((_, left)) = self.waiting.pop() {
            sum = self.join(left, sum);
        }
        Some(sum)
    }

    fn join(&mut self, mut left: Partial, right: Partial) -> Partial {
        add(&mut left.gradient, &right.gradient);
        left.scalars.iter_mut().zip(&right.scalars).for_each(|(left, right)| *left += right);
        self.spare.push(right.gradient);
        left
    }
}

/// `left += right`, element by element.
fn add(left: &mut [f32], right: &[f32]) {
    left.par_chunks_mut(CHUNK).zip(right.par_chunks(CHUNK)).for_each(|(left, right)| {
        left.iter_mut().zip(right).for_each(|(left, right)| *left += right);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tree(leaves: &[f32]) -> f32 {
        match leaves.len() {
            1 => leaves[0],
            count => {
                let split = count.next_power_of_two() / 2;
                tree(&leaves[..split]) + tree(&leaves[split..])
            }
        }
    }

    fn fold(leaves: &[f32]) -> f32 {
        let mut fold = Fold::default();
        for &leaf in leaves {
            fold.push(Partial { gradient: vec![leaf], scalars: vec![1.0] });
        }
        let sum = fold.finish().unwrap();
        assert_eq!(sum.scalars, [leaves.len() as f64]);
        sum.gradient[0]
    }

    proptest! {
        #[test]
        fn the_fold_is_the_pairwise_tree(leaves in prop::collection::vec(-1e3f32..1e3, 1..40)) {
            prop_assert_eq!(fold(&leaves).to_bits(), tree(&leaves).to_bits());
        }

        #[test]
        fn ranks_with_blocks_of_a_power_of_two_continue_the_same_tree(leaves in prop::collection::vec(-1e3f32..1e3, 8)) {
            let ranks: Vec<f32> = leaves.chunks(2).map(fold).collect();
            prop_assert_eq!(fold(&ranks).to_bits(), fold(&leaves).to_bits());
        }
    }
}
