//! `broadcast`, `all_gather`, `barrier`.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use mdt_plugin_api::prelude::*;

use crate::setup::{done, job, run};

#[test]
fn every_rank_gets_the_buffers_of_any_root() {
    let buffers = |rank: u32| {
        vec![Buffer::F32(vec![rank as f32; 700_000]), Buffer::U64(vec![u64::from(rank)]), Buffer::F64(Vec::new())]
    };
    for root in 0..3 {
        let results = run(&job(3), |communicator| done(communicator.broadcast(buffers(communicator.rank()), root)));
        assert_eq!(results, vec![buffers(root); 3]);
    }
}

#[test]
fn ranks_need_not_know_how_many_bytes_the_root_broadcasts() {
    let results = run(&job(3), |communicator| {
        let text = if communicator.rank() == 1 { b"three words here".to_vec() } else { Vec::new() };
        done(communicator.broadcast(vec![Buffer::Bytes(text), Buffer::U64(vec![0])], 1))
    });
    assert_eq!(results, vec![vec![Buffer::Bytes(b"three words here".to_vec()), Buffer::U64(vec![0])]; 3]);
}

#[test]
fn buffers_of_different_lengths_are_gathered_in_order_of_ranks() {
    let bytes = |rank: u32| Buffer::Bytes(vec![rank as u8; [5, 0, 3_000_001, 1][rank as usize]]);
    let results = run(&job(4), |communicator| done(communicator.all_gather(bytes(communicator.rank()))));
    assert_eq!(results, vec![(0..4).map(bytes).collect::<Vec<_>>(); 4]);

    let numbers = |rank: u32| Buffer::F32(vec![rank as f32; rank as usize]);
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
            done(communicator.all_reduce(vec![Buffer::F32(vec![1.0; 500_000])], ReduceOp::Sum))
        });
        assert_eq!(sums, vec![vec![Buffer::F32(vec![3.0; 500_000])]; 3]);
    }
}
