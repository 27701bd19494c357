//! Ranks that do not call the same: an error on all of them, and never a result.

use mdt_plugin_api::prelude::*;
use mdt_plugin_api::register::Connected;

use crate::setup::{failure, job, run};

/// What each of three ranks is told when rank 1 calls something else.
fn mismatch(
    common: impl Fn(&Connected) -> Result<Box<dyn Work>> + Sync,
    other: impl Fn(&Connected) -> Result<Box<dyn Work>> + Sync,
) -> Vec<String> {
    run(&job(3), |communicator| {
        let work = if communicator.rank() == 1 { other(&communicator) } else { common(&communicator) };
        failure(work).0
    })
}

fn assert_all(messages: &[String], expected: [&str; 2]) {
    for message in messages {
        assert!(message.contains("collective number 1 differs between ranks"), "{message}");
        assert!(expected.iter().all(|part| message.contains(part)), "{message}");
    }
}

#[test]
fn ranks_that_call_different_collectives_are_all_told_what_each_called() {
    let messages = mismatch(|c| c.all_reduce(vec![Buffer::from(vec![0.0f32; 8])], ReduceOp::Sum), |c| c.barrier());
    assert_all(&messages, ["all_reduce(sum) of float32 × 8", "rank 1 called barrier"]);

    let broadcast = |root| move |c: &Connected| c.broadcast(vec![Buffer::from(vec![0u64])], root);
    let messages = mismatch(broadcast(0), broadcast(2));
    assert_all(&messages, ["broadcast from rank 0 of uint64 × 1", "rank 1 called broadcast from rank 2 of uint64 × 1"]);
}

#[test]
fn other_lengths_types_and_reductions_are_errors_on_all_ranks() {
    let reduce = |buffer: Buffer, op| move |c: &Connected| c.all_reduce(vec![buffer.clone()], op);
    let floats = |length| Buffer::from(vec![1.0f32; length]);
    for length in [9, 900_000] {
        let messages = mismatch(reduce(floats(8), ReduceOp::Sum), reduce(floats(length), ReduceOp::Sum));
        assert_all(&messages, ["float32 × 8", &format!("rank 1 called all_reduce(sum) of float32 × {length}")]);
    }
    let doubles = Buffer::from(vec![1.0f64; 4]);
    let messages = mismatch(reduce(floats(8), ReduceOp::Sum), reduce(doubles, ReduceOp::Sum));
    assert_all(&messages, ["float32 × 8", "rank 1 called all_reduce(sum) of float64 × 4"]);

    let messages = mismatch(reduce(floats(8), ReduceOp::Sum), reduce(floats(8), ReduceOp::Max));
    assert_all(&messages, ["all_reduce(sum)", "rank 1 called all_reduce(max)"]);
}

#[test]
fn among_many_buffers_the_first_that_differs_is_named() {
    let reduce = |lengths: [usize; 3]| {
        move |c: &Connected| {
            c.all_reduce(lengths.iter().map(|&length| Buffer::from(vec![0.0f32; length])).collect(), ReduceOp::Sum)
        }
    };
    let messages = mismatch(reduce([5, 6, 7]), reduce([5, 7, 6]));
    assert_all(&messages, ["buffer 1 is float32 × ", "float32 × 7 on rank 1"]);
}

#[test]
fn what_is_wrong_on_one_rank_alone_is_said_at_once() {
    let messages = run(&job(2), |communicator| {
        let bytes = communicator.all_reduce(vec![Buffer::from(vec![1u8])], ReduceOp::Sum).err().unwrap();
        let root = communicator.broadcast(Vec::new(), 2).err().unwrap();
        (bytes.message().to_owned(), root.message().to_owned())
    });
    for (bytes, root) in messages {
        assert_eq!(bytes, "uint8 cannot be reduced, only broadcast and gathered");
        assert_eq!(root, "the root of a broadcast among 2 ranks must be 0 to 1, not 2");
    }
}
