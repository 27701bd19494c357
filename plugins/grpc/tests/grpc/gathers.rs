//! `broadcast`, `all_gather`, `barrier`.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use mdt_plugin_api::prelude::*;

use crate::setup::{done, job, run};

#[test]
fn every_rank_gets_the_buffers_of_any_root() {
    let buffers = |rank: u32| {
        vec![
            Buffer::from(vec![rank as f32; 700_000]),
            Buffer::from(vec![u64::from(rank)]),
            Buffer::from(Vec::<f64>::new()),
        ]
    };
    for root in 0..3 {
        let results = run(&job(3), |communicator| done(communicator.broadcast(buffers(communicator.rank()), root)));
        assert_eq!(results, vec![buffers(root); 3]);
    }
}

#[test]
fn results_lie_in_the_memory_that_was_given() {
    run(&job(2), |communicator| {
        let region = Region::of(vec![communicator.rank() as f32 + 1.0; 300_000]);
        let at = |start| region.buffer::<f32>(start..start + 100_000).unwrap();
        let address = |buffer: &Buffer| buffer.bytes().as_ptr();
        let (first, second) = (at(0), at(200_000));
        let places = [address(&first), address(&second)];
        let sums = communicator.all_reduce(vec![first], ReduceOp::Sum);
        let root = communicator.broadcast(vec![second], 0);
        assert!(region.buffer::<f32>(99_999..100_001).is_err(), "the collective has it");
        let results = [done(root).remove(0), done(sums).remove(0)];
        assert_eq!([address(&results[1]), address(&results[0])], places);
        drop(results);
        let values = region.into_vec::<f32>().unwrap();
        let own = communicator.rank() as f32 + 1.0;
        assert_eq!([values[0], values[99_999], values[100_000], values[200_000]], [3.0, 3.0, own, 1.0]);
    });
}

#[test]
fn buffers_of_different_lengths_are_gathered_in_order_of_ranks() {
    let bytes = |rank: u32| Buffer::from(vec![rank as u8; [5, 0, 3_000_001, 1][rank as usize]]);
    let results = run(&job(4), |communicator| done(communicator.all_gather(bytes(communicator.rank()))));
    assert_eq!(results, vec![(0..4).map(bytes).collect::<Vec<_>>(); 4]);

    let numbers = |rank: u32| Buffer::from(vec![rank as f32; rank as usize]);
    let results = run(&job(2), |communicator| done(communicator.all_gather(numbers(communicator.rank()))));
    assert_eq!(results, vec![(0..2).map(numbers).collect::<Vec<_>>(); 2]);
}

#[test]
fn a_barrier_is_passed_only_when_every_rank_has_come() {
    let come = AtomicU32::new(0);
    let counts = run(&job(4), |communicator| {
        thread::sleep(Duration::from_millis(60) * communicator.rank());
        come.fetch_add(1, Ordering::SeqCst);
        done(communicator.barrier());
        come.load(Ordering::SeqCst)
    });
    assert_eq!(counts, [4; 4]);
}

#[test]
fn a_rank_that_leaves_at_once_leaves_nobody_without_the_last_result() {
    for _ in 0..10 {
        let sums = run(&job(3), |communicator| {
            // Rank 0 closes its communicator while the others still wait for what it sent.
            thread::sleep(Duration::from_millis(10) * communicator.rank());
            done(communicator.all_reduce(vec![Buffer::from(vec![1.0f32; 500_000])], ReduceOp::Sum))
        });
        assert_eq!(sums, vec![vec![Buffer::from(vec![3.0f32; 500_000])]; 3]);
    }
}
