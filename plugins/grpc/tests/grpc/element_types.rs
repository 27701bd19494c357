//! Every reduction of every element type, by every way that data can take: the bits of the tree.

use mdt_grpc::Config;
use mdt_plugin_api::prelude::*;
use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};

use crate::setup::{backend, config, done, failure, job, run_with};

const OPS: [ReduceOp; 4] = [ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min, ReduceOp::Mean];

/// Numbers of all kinds, each with its bits: signed zeros, denormals, infinities, NaN, ordinary ones.
fn number(rank: u32, index: usize) -> f64 {
    let state = (u64::from(rank) << 32 | index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    match state % 41 {
        0 => -0.0,
        1 => 1e-42,
        2 => f64::INFINITY,
        3 => f64::NAN,
        4 => -3e38,
        5 => 1e-45,
        _ => ((state >> 8) % 4001) as f64 / 8.0 - 250.0,
    }
}

/// A rank's elements of a type, as bytes.
fn elements(dtype: Dtype, rank: u32, count: usize) -> Buffer {
    let integer = |index: usize| (number(rank, index).to_bits() >> 3) as i64 - (1 << 58);
    let half = |index: usize| (number(rank, index) as f32).to_bits();
    let bytes: Vec<u8> = (0..count)
        .flat_map(|index| match dtype {
            Dtype::F32 => (number(rank, index) as f32).to_le_bytes().to_vec(),
            Dtype::F64 => number(rank, index).to_le_bytes().to_vec(),
            // The upper half of an f32 is a bf16. Any bits are an f16.
            Dtype::BF16 => ((half(index) >> 16) as u16).to_le_bytes().to_vec(),
            Dtype::F16 => ((half(index) >> 13) as u16).to_le_bytes().to_vec(),
            Dtype::I32 | Dtype::U32 => (integer(index) as i32).to_le_bytes().to_vec(),
            _ => integer(index).to_le_bytes().to_vec(),
        })
        .collect();
    Buffer::copy_of(dtype, &bytes).unwrap()
}

/// The bits, where all numbers that are none are alike: which of their bits remain is the processor's to choose.
fn bits(buffer: &Buffer) -> Vec<u64> {
    let size = buffer.dtype().size();
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
    let is_nan = |word: u64| match buffer.dtype() {
        Dtype::F32 => f32::from_bits(word as u32).is_nan(),
        Dtype::F64 => f64::from_bits(word).is_nan(),
        Dtype::BF16 => f32::from_bits((word as u32) << 16).is_nan(),
        Dtype::F16 => word & 0x7c00 == 0x7c00 && word & 0x3ff != 0,
        _ => false,
    };
    buffer.bytes().chunks_exact(size).map(word).map(|word| if is_nan(word) { u64::MAX } else { word }).collect()
}

/// The result on each rank of a reduction of these types, so many elements of each.
fn reduced(world_size: u32, config: Config, dtypes: &[Dtype], count: usize, op: ReduceOp) -> Vec<Vec<Vec<u64>>> {
    run_with(&job(world_size), config, |communicator| {
        let rank = communicator.rank();
        let buffers = dtypes.iter().map(|dtype| elements(*dtype, rank, count)).collect();
        done(communicator.all_reduce(buffers, op)).iter().map(bits).collect()
    })
}

#[test]
fn bits_do_not_depend_on_chunks_connections_or_whether_payloads_are_folded_whole() {
    let dtypes = backend(config()).unwrap().capabilities().unwrap().dtypes;
    assert_eq!(dtypes.len(), 8);
    let cases =
        (2u32..=4, 1usize..30_000, 0usize..4, 4u32..80, 1u32..=3, prop_oneof![Just(0u32), Just(64), Just(8192)]);
    let mut runner = TestRunner::new(Cases { cases: 12, failure_persistence: None, ..Cases::default() });
    runner
        .run(&cases, |(world_size, count, op, chunk_kib, connections, whole_kib)| {
            let other = Config { chunk_kib, connections, whole_kib: Some(whole_kib), ..config() };
            let whole = reduced(world_size, config(), &dtypes, count, OPS[op]);
            prop_assert!(whole.iter().all(|rank| *rank == whole[0]), "ranks differ");
            let other = reduced(world_size, other, &dtypes, count, OPS[op]);
            prop_assert!(other == whole, "another way, other bits");
            // Elements one by one are small enough to be sent to every rank.
            let first = reduced(world_size, config(), &dtypes, 1, OPS[op]);
            let few: Vec<u64> = whole[0].iter().map(|buffer| buffer[0]).collect();
            prop_assert_eq!(first[0].concat(), few);
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_mean_is_the_sum_divided_once() {
    let means = run_with(&job(3), config(), |communicator| {
        let rank = communicator.rank();
        let buffers = vec![vec![rank as f32 + 0.5; 3].into(), vec![-1i64 - i64::from(rank); 40_000].into()];
        done(communicator.all_reduce(buffers, ReduceOp::Mean))
    });
    let expected = [Buffer::from(vec![4.5f32 / 3.0; 3]), Buffer::from(vec![-2i64; 40_000])];
    assert_eq!(means, [(); 3].map(|()| expected.to_vec()));
}

#[test]
fn more_ranks_than_send_directly_fold_by_the_same_tree() {
    // Above 64 KiB data is halved again and again; below, every rank folds everything.
    for world_size in [17, 20] {
        for op in [ReduceOp::Sum, ReduceOp::Mean] {
            let large = reduced(world_size, config(), &[Dtype::F32, Dtype::I64], 11_000, op);
            assert!(large.iter().all(|rank| *rank == large[0]), "{world_size} ranks differ");
            let small = reduced(world_size, config(), &[Dtype::F32, Dtype::I64], 3_000, op);
            for (large, small) in large[0].iter().zip(&small[0]) {
                assert_eq!(large[..3_000], small[..], "{world_size} ranks, {op:?}");
            }
        }
    }
}

#[test]
fn many_ranks_are_told_of_a_mismatch_as_few_are() {
    let messages = run_with(&job(17), config(), |communicator| {
        let length = if communicator.rank() == 9 { 40_001 } else { 40_000 };
        failure(communicator.all_reduce(vec![vec![0f32; length].into()], ReduceOp::Sum)).0
    });
    for message in messages {
        assert!(message.contains("rank 9 called all_reduce(sum) of float32 × 40001"), "{message}");
    }
}
