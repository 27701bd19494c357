//! Accumulation: an update's micro-batches added up by one pairwise tree, so that their sum has the same bits wherever
//! it is taken.
//!
//! Micro-batch g is leaf g. Neighbours are added first, then neighbours of those: ((0+1)+(2+3))+((4+5)+…). A rank that
//! holds an aligned block of a power of two leaves has a whole subtree, so a sum over ranks continues the same tree. On
//! the device it is the same tree of the same additions of f32.

use std::collections::BTreeMap;
use std::ops::Range;

use mdt_plugin_api::{Error, Handle, Result, Tensor};
use rayon::prelude::*;

/// Elements that one task adds.
const CHUNK: usize = 1 << 16;

/// The result of one micro-batch, or the sum of several.
#[derive(Debug)]
pub struct Partial {
    /// Gradient of the summed loss.
    pub gradient: Gradient,
    /// The numbers that are summed beside it.
    pub sums: Sums,
}

/// The gradient of every parameter.
#[derive(Debug)]
pub enum Gradient {
    /// In host memory, all parameters one after another.
    Host(Vec<f32>),
    /// On the device, a tensor for each parameter; none where there was no micro-batch.
    Device(Vec<Tensor>),
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

/// An element of the gradient of nothing, which changes no bit of what it is added to: x + -0.0 is x, and -0.0 + 0.0 would
/// be 0.0.
pub const NOTHING: f32 = -0.0;

impl Sums {
    /// The sum of nothing, which changes no bit of what it is added to.
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

    /// Adds the next micro-batch.
    pub fn push(&mut self, leaf: Partial) -> Result<()> {
        let mut subtree = (1, leaf);
        while let Some((leaves, left)) = self.waiting.pop_if(|(leaves, _)| *leaves == subtree.0) {
            subtree = (2 * leaves, self.join(left, subtree.1)?);
        }
        self.waiting.push(subtree);
        Ok(())
    }

    /// Adds the subtrees that wait to `sum`, which has these elements of the last micro-batch's gradient: what [`finish`]
    /// would give there.
    ///
    /// [`finish`]: Self::finish
    pub fn add_to(&self, sum: &mut [f32], elements: Range<usize>) -> Result<()> {
        self.waiting.iter().rev().try_for_each(|(_, left)| match &left.gradient {
            Gradient::Host(left) => left.get(elements.clone()).map(|left| add(sum, left)).ok_or_else(too_short),
            Gradient::Device(_) => Err(elsewhere()),
        })
    }

    /// The numbers of all micro-batches since the last call and of a last one, whose gradient is elsewhere. Without any, they
    /// are a sum that changes no bit of other ranks' sums.
    pub fn finish_numbers(&mut self, last: Sums) -> Sums {
        let mut sums = last;
        while let Some((_, Partial { gradient, sums: mut left })) = self.waiting.pop() {
            left.add(sums);
            sums = left;
            if let Gradient::Host(gradient) = gradient {
                self.spare.push(gradient);
            }
        }
        sums
    }

    /// The sum of all micro-batches since the last call on the device, where the sum of none has no tensors.
    pub fn finish_on_device(&mut self) -> Result<(Vec<Tensor>, Sums)> {
        match self.finish()? {
            Some(Partial { gradient: Gradient::Device(gradients), sums }) => Ok((gradients, sums)),
            Some(Partial { gradient: Gradient::Host(_), .. }) => Err(elsewhere()),
            None => Ok((Vec::new(), Sums::NONE)),
        }
    }

    /// The same, wherever it is; none where there was no micro-batch.
    pub fn finish(&mut self) -> Result<Option<Partial>> {
        let Some((_, mut sum)) = self.waiting.pop() else { return Ok(None) };
        while let Some((_, left)) = self.waiting.pop() {
            sum = self.join(left, sum)?;
        }
        Ok(Some(sum))
    }

    fn join(&mut self, mut left: Partial, right: Partial) -> Result<Partial> {
        match (&mut left.gradient, right.gradient) {
            (Gradient::Host(left), Gradient::Host(right)) => {
                add(left, &right);
                self.spare.push(right);
            }
            (Gradient::Device(left), Gradient::Device(right)) if left.is_empty() => *left = right,
            (Gradient::Device(left), Gradient::Device(right)) => {
                for (left, right) in left.iter_mut().zip(&right) {
                    *left = (&*left + right)?;
                }
                // Now, so that the summands are freed.
                if let Some(first) = left.first() {
                    first.compute().eval(&left.iter().map(Tensor::handle).collect::<Vec<Handle>>())?;
                }
            }
            _ => return Err(elsewhere()),
        }
        left.sums.add(right.sums);
        Ok(left)
    }
}

fn elsewhere() -> Error {
    Error::other("gradients of one update lie partly on the host and partly on the device")
}

fn too_short() -> Error {
    Error::other("a gradient that waits is shorter than the sum")
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
            let gradient = Gradient::Host(vec![leaf]);
            accumulator.push(Partial { gradient, sums: Sums::of_numbers([1.0; 4]) }).unwrap();
        }
        sum_of(&mut accumulator, leaves.len())
    }

    fn sum_of(accumulator: &mut Accumulator, leaves: usize) -> f32 {
        let sum = accumulator.finish().unwrap().unwrap();
        assert_eq!(sum.sums, Sums::of_numbers([leaves as f64; 4]));
        let Gradient::Host(gradient) = sum.gradient else { unreachable!() };
        gradient[0]
    }

    /// The same sum with the last micro-batch beside the tree.
    fn sum_with_last(leaves: &[f32]) -> f32 {
        let mut accumulator = Accumulator::default();
        let (last, leaves) = leaves.split_last().unwrap();
        for &leaf in leaves {
            let gradient = Gradient::Host(vec![0.5, leaf]);
            accumulator.push(Partial { gradient, sums: Sums::of_numbers([1.0; 4]) }).unwrap();
        }
        let mut sum = [*last];
        accumulator.add_to(&mut sum, 1..2).unwrap();
        let sums = accumulator.finish_numbers(Sums::of_numbers([1.0; 4]));
        assert_eq!(sums, Sums::of_numbers([leaves.len() as f64 + 1.0; 4]));
        assert!(accumulator.waiting.is_empty());
        sum[0]
    }

    proptest! {
        #[test]
        fn the_sum_is_the_pairwise_tree(leaves in prop::collection::vec(-1e3f32..1e3, 1..40)) {
            prop_assert_eq!(sum(&leaves).to_bits(), tree(&leaves).to_bits());
            prop_assert_eq!(sum_with_last(&leaves).to_bits(), tree(&leaves).to_bits());
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
            assert_eq!((value + NOTHING).to_bits(), value.to_bits());
            let none = Accumulator::default().finish_numbers(Sums::NONE);
            let mut sums = Sums::of_numbers([f64::from(value); 4]);
            sums.add(none);
            assert!(sums.numbers().iter().all(|number| number.to_bits() == f64::from(value).to_bits()));
        }
    }

    #[test]
    fn metrics_are_added_by_name() {
        let sums = |metrics: &[(&str, f64)]| {
            let metrics = metrics.iter().map(|&(name, value)| (name.to_owned(), [value, 2.0 * value])).collect();
            Sums { metrics, ..Sums::NONE }
        };
        let mut accumulator = Accumulator::default();
        for metrics in [&[("a", 1.0), ("b", 10.0)][..], &[], &[("b", 20.0), ("c", 0.5)]] {
            accumulator.push(Partial { gradient: Gradient::Host(Vec::new()), sums: sums(metrics) }).unwrap();
        }
        assert_eq!(accumulator.finish_numbers(Sums::NONE), sums(&[("a", 1.0), ("b", 30.0), ("c", 0.5)]));
    }

    #[test]
    fn gradient_memory_goes_round_whatever_an_update_has() {
        let mut accumulator = Accumulator::default();
        for update in 0..100 {
            for _ in 0..update % 5 {
                let gradient = Gradient::Host(accumulator.buffer(8));
                accumulator.push(Partial { gradient, sums: Sums::NONE }).unwrap();
            }
            accumulator.finish_numbers(Sums::NONE);
        }
        assert!(accumulator.spare.len() <= 3, "{} gradients are kept", accumulator.spare.len());
    }
}
