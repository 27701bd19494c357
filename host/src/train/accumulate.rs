//! Accumulation: an update's micro-batches added up by one pairwise tree, so that their sum has the same bits wherever
//! it is taken.
//!
//! Micro-batch g is leaf g. Neighbours are added first, then neighbours of those: ((0+1)+(2+3))+((4+5)+…). A rank that
//! holds an aligned block of a power of two leaves has a whole subtree, so a sum over ranks continues the same tree.

use std::collections::BTreeMap;

use rayon::prelude::*;

/// Elements that one task adds.
const CHUNK: usize = 1 << 16;

/// The result of one micro-batch, or the sum of several.
#[derive(Clone, Debug, PartialEq)]
pub struct Partial {
    /// Gradient of the summed loss, all parameters one after another.
    pub gradient: Vec<f32>,
    /// The numbers that are summed beside it.
    pub sums: Sums,
}

/// The numbers of a micro-batch that are summed over micro-batches and ranks.
#[derive(Clone, Debug, PartialEq)]
pub struct Sums {
    /// Summed loss of the supervised tokens.
    pub loss: f64,
    /// What the sum of the losses, and its gradient, is divided by.
    pub weight: f64,
    /// Tokens without padding.
    pub tokens: f64,
    /// Supervised tokens.
    pub supervised_tokens: f64,
    /// The trainer's metrics by name: what is summed, and what that is divided by. Micro-batches may have different ones.
    pub metrics: BTreeMap<String, [f64; 2]>,
}

impl Sums {
    /// The sum of nothing, which changes no bit of what it is added to: x + -0.0 is x, and -0.0 + 0.0 would be 0.0.
    pub const NONE: Self = Self::of_numbers([-0.0; 4]);

    /// All but the metrics.
    pub fn numbers(&self) -> [f64; 4] {
        [self.loss, self.weight, self.tokens, self.supervised_tokens]
    }

    /// The same numbers without metrics.
    pub const fn of_numbers([loss, weight, tokens, supervised_tokens]: [f64; 4]) -> Self {
        Self { loss, weight, tokens, supervised_tokens, metrics: BTreeMap::new() }
    }

    /// Adds others. A metric that only one side has keeps its value.
    pub fn add(&mut self, other: Self) {
        self.loss += other.loss;
        self.weight += other.weight;
        self.tokens += other.tokens;
        self.supervised_tokens += other.supervised_tokens;
        for (name, value) in other.metrics {
            self.add_metric(name, value);
        }
    }

    /// Adds a metric.
    pub fn add_metric(&mut self, name: String, [sum, weight]: [f64; 2]) {
        let entry = self.metrics.entry(name).or_insert([-0.0; 2]);
        *entry = [entry[0] + sum, entry[1] + weight];
    }
}

/// Adds micro-batches as leaves of the tree, in order.
#[derive(Debug, Default)]
pub struct Accumulator {
    /// Subtrees that wait for their right neighbour, each with the number of its leaves; falling from left to right.
    waiting: Vec<(u64, Partial)>,
    /// Gradient memory for reuse.
    spare: Vec<Vec<f32>>,
}

impl Accumulator {
    /// Memory for a gradient, of any content.
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

    /// Adds the next micro-batch.
    pub fn push(&mut self, leaf: Partial) {
        let mut subtree = (1, leaf);
        while let Some((leaves, left)) = self.waiting.pop_if(|(leaves, _)| *leaves == subtree.0) {
            subtree = (2 * leaves, self.join(left, subtree.1));
        }
        self.waiting.push(subtree);
    }

    /// The sum of all micro-batches since the last call, with a gradient of this length. Without any, it is a sum that
    /// changes no bit of other ranks' sums; its memory, too, is what was recycled.
    pub fn finish(&mut self, length: usize) -> Partial {
        let Some((_, mut sum)) = self.waiting.pop() else {
            let mut gradient = self.buffer(length);
            gradient.fill(-0.0);
            return Partial { gradient, sums: Sums::NONE };
        };
        while let Some((_, left)) = self.waiting.pop() {
            sum = self.join(left, sum);
        }
        sum
    }

    fn join(&mut self, mut left: Partial, right: Partial) -> Partial {
        add(&mut left.gradient, &right.gradient);
        left.sums.add(right.sums);
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

    fn sum(leaves: &[f32]) -> f32 {
        let mut accumulator = Accumulator::default();
        for &leaf in leaves {
            accumulator.push(Partial { gradient: vec![leaf], sums: Sums::of_numbers([1.0; 4]) });
        }
        let sum = accumulator.finish(1);
        assert_eq!(sum.sums, Sums::of_numbers([leaves.len() as f64; 4]));
        sum.gradient[0]
    }

    proptest! {
        #[test]
        fn the_sum_is_the_pairwise_tree(leaves in prop::collection::vec(-1e3f32..1e3, 1..40)) {
            prop_assert_eq!(sum(&leaves).to_bits(), tree(&leaves).to_bits());
        }

        #[test]
        fn ranks_with_blocks_of_a_power_of_two_continue_the_same_tree(leaves in prop::collection::vec(-1e3f32..1e3, 8)) {
            let ranks: Vec<f32> = leaves.chunks(2).map(sum).collect();
            prop_assert_eq!(sum(&ranks).to_bits(), sum(&leaves).to_bits());
        }
    }

    #[test]
    fn a_sum_of_no_micro_batches_changes_no_bit() {
        for value in [0.0f32, -0.0, 1.5, f32::MIN_POSITIVE] {
            let none = Accumulator::default().finish(1);
            assert_eq!((value + none.gradient[0]).to_bits(), value.to_bits());
            let mut sums = Sums::of_numbers([f64::from(value); 4]);
            sums.add(none.sums);
            assert!(sums.numbers().iter().all(|number| number.to_bits() == f64::from(value).to_bits()));
        }
    }

    #[test]
    fn metrics_are_added_by_name() {
        let partial = |metrics: &[(&str, f64)]| {
            let metrics = metrics.iter().map(|&(name, value)| (name.to_owned(), [value, 2.0 * value])).collect();
            Partial { gradient: Vec::new(), sums: Sums { metrics, ..Sums::NONE } }
        };
        let mut accumulator = Accumulator::default();
        for metrics in [&[("a", 1.0), ("b", 10.0)][..], &[], &[("b", 20.0), ("c", 0.5)]] {
            accumulator.push(partial(metrics));
        }
        assert_eq!(accumulator.finish(0), partial(&[("a", 1.0), ("b", 30.0), ("c", 0.5)]));
    }

    #[test]
    fn gradient_memory_goes_round_whatever_an_update_has() {
        let mut accumulator = Accumulator::default();
        for update in 0..100 {
            for _ in 0..update % 5 {
                let gradient = accumulator.buffer(8);
                accumulator.push(Partial { gradient, sums: Sums::NONE });
            }
            let sum = accumulator.finish(8);
            accumulator.recycle(sum.gradient);
        }
        assert!(accumulator.spare.len() <= 3, "{} gradients are kept", accumulator.spare.len());
    }
}
