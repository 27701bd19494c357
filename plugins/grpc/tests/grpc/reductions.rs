//! `all_reduce`: the bits of the pairwise tree.

use mdt_plugin_api::prelude::*;
use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};

use crate::setup::{done, job, run};

/// The tree as its definition has it.
fn tree<T: Copy>(leaves: &[T], combine: impl Fn(T, T) -> T + Copy) -> T {
    match leaves.len() {
        1 => leaves[0],
        count => {
            let (left, right) = leaves.split_at(count.next_power_of_two() / 2);
            combine(tree(left, combine), tree(right, combine))
        }
    }
}

/// Numbers of very different sizes, so that every order of additions has other bits.
fn numbers(rank: u32, length: usize) -> Vec<f32> {
    let mut state = u64::from(rank) * 0x9e37_79b9_7f4a_7c15 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mantissa = (state >> 40) as f32 / (1 << 24) as f32 - 0.5;
        mantissa * 2f32.powi((state >> 34 & 15) as i32)
    };
    (0..length).map(|_| next()).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Folds buffers of these lengths over that many ranks, several in one call, and compares every bit.
fn sums_have_the_bits_of_the_tree(world_size: u32, lengths: &[usize]) {
    let mine = |rank, length| numbers(rank + 100 * length as u32, length);
    let results = run(&job(world_size), |communicator| {
        let rank = communicator.rank();
        let mut buffers: Vec<Buffer> = lengths.iter().map(|&length| Buffer::from(mine(rank, length))).collect();
        buffers.push(Buffer::from(vec![f64::from(rank) + 0.1; 3]));
        done(communicator.all_reduce(buffers, ReduceOp::Sum))
    });
    for result in results {
        assert_eq!(result.len(), lengths.len() + 1);
        for (&length, buffer) in lengths.iter().zip(&result) {
            let ranks: Vec<_> = (0..world_size).map(|rank| mine(rank, length)).collect();
            let expected = (0..length).map(|index| {
                let leaves: Vec<f32> = ranks.iter().map(|values| values[index]).collect();
                tree(&leaves, |a, b| a + b).to_bits()
            });
            assert_eq!(bits(buffer.as_slice().unwrap()), expected.collect::<Vec<_>>());
        }
        let leaves: Vec<f64> = (0..world_size).map(|rank| f64::from(rank) + 0.1).collect();
        assert_eq!(result.last(), Some(&Buffer::from(vec![tree(&leaves, |a, b| a + b); 3])));
    }
}

#[test]
fn sums_have_the_bits_of_the_pairwise_tree_for_any_ranks_and_sizes() {
    let length = prop_oneof![Just(0), Just(1), 2usize..3000, 15_000usize..20_000, 260_000usize..700_000];
    let cases = (2u32..=5, prop::collection::vec(length, 0..4));
    let config = Cases { cases: 16, failure_persistence: None, ..Cases::default() };
    let mut runner = TestRunner::new(config);
    runner
        .run(&cases, |(world_size, lengths)| {
            sums_have_the_bits_of_the_tree(world_size, &lengths);
            Ok(())
        })
        .unwrap();
}

#[test]
fn every_world_size_folds_small_and_large_buffers_alike() {
    for world_size in 2..=5 {
        sums_have_the_bits_of_the_tree(world_size, &[1, 0, 1000]);
        sums_have_the_bits_of_the_tree(world_size, &[600_001, 0, 7]);
    }
}

#[test]
fn maxima_and_minima_of_all_types_are_taken_over_all_ranks() {
    for length in [3, 40_000] {
        for (op, place) in [(ReduceOp::Max, 2), (ReduceOp::Min, 0)] {
            let buffers = |rank: u32| {
                let value = u64::from((rank + 1) % 3);
                vec![
                    Buffer::from(vec![value as f32 - 1.5; length]),
                    Buffer::from(vec![value as f64 - 1.5; length]),
                    Buffer::from(vec![u64::MAX - 5 + value; length]),
                ]
            };
            let by_value = |value: u32| buffers((value + 2) % 3);
            for result in run(&job(3), |communicator| done(communicator.all_reduce(buffers(communicator.rank()), op))) {
                assert_eq!(result, by_value(place));
            }
        }
    }
}

#[test]
fn counts_are_summed_exactly() {
    let counts = |rank: u32| vec![(1 << 60) + u64::from(rank), u64::from(rank)];
    for result in run(&job(3), |communicator| {
        done(communicator.all_reduce(vec![Buffer::from(counts(communicator.rank()))], ReduceOp::Sum))
    }) {
        assert_eq!(result, [Buffer::from(vec![3 * (1u64 << 60) + 3, 3])]);
    }
}

#[test]
fn what_is_not_a_number_on_one_rank_is_none_on_all() {
    for op in [ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min] {
        for result in run(&job(3), |communicator| {
            let value = if communicator.rank() == 1 { f32::NAN } else { 1.0 };
            done(communicator.all_reduce(vec![Buffer::from(vec![value])], op))
        }) {
            assert!(result[0].as_slice::<f32>().unwrap()[0].is_nan(), "{op:?}");
        }
    }
}

#[test]
fn collectives_that_are_begun_before_others_have_ended_keep_their_order() {
    let results = run(&job(3), |communicator| {
        let length = |index: usize| [5, 100_000, 0, 300_000][index % 4];
        let begin =
            |index| communicator.all_reduce(vec![Buffer::from(vec![index as u64; length(index)])], ReduceOp::Sum);
        let mut works: Vec<_> = (0..12).map(|index| begin(index).unwrap()).collect();
        works.reverse(); // waiting in another order changes nothing
        let results: Vec<_> = works.into_iter().map(|work| done(Ok(work))).collect();
        results
            .into_iter()
            .rev()
            .enumerate()
            .all(|(index, result)| result == [Buffer::from(vec![3 * index as u64; length(index)])])
    });
    assert_eq!(results, [true; 3]);
}

#[test]
fn one_rank_alone_gets_back_what_it_gave() {
    let results = run(&job(1), |communicator| {
        let reduced = done(communicator.all_reduce(vec![Buffer::from(vec![1.5f32; 100_000])], ReduceOp::Sum));
        let gathered = done(communicator.all_gather(Buffer::from(vec![7u8])));
        assert!(done(communicator.barrier()).is_empty());
        (reduced, gathered, done(communicator.broadcast(vec![Buffer::from(vec![1u64])], 0)))
    });
    let expected =
        (vec![Buffer::from(vec![1.5f32; 100_000])], vec![Buffer::from(vec![7u8])], vec![Buffer::from(vec![1u64])]);
    assert_eq!(results, [expected]);
}

#[test]
fn a_part_of_a_sum_has_the_bits_of_the_whole_one() {
    for (world_size, part) in [(1, 7), (2, 1), (2, 0), (3, 5), (3, 100_001), (4, 600_000)] {
        let length = part * world_size as usize;
        run(&job(world_size), |communicator| {
            let rank = communicator.rank();
            let numbers = || Buffer::from(numbers(rank, length));
            let whole = done(communicator.all_reduce(vec![numbers()], ReduceOp::Sum));
            let able = communicator.reduce_scatter.as_ref().unwrap();
            let parts = done(able.reduce_scatter(numbers(), ReduceOp::Sum));
            let own = part * rank as usize..part * (rank as usize + 1);
            let of = |buffers: &[Buffer]| bits(&buffers[0].as_slice().unwrap()[own.clone()]);
            assert_eq!(of(&parts), of(&whole), "{world_size} ranks, {part} elements each");
        });
    }
    let messages = run(&job(2), |communicator| {
        let able = communicator.reduce_scatter.as_ref().unwrap();
        able.reduce_scatter(Buffer::from(vec![0f32; 3]), ReduceOp::Sum).err().unwrap().message().to_owned()
    });
    assert_eq!(messages, ["3 elements cannot be divided into equal parts for 2 ranks"; 2]);
}
