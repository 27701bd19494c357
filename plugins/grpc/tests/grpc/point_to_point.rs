//! `send` and `receive`: in order, in both directions at once, beside collectives.

use std::thread;
use std::time::Duration;

use mdt_grpc::Config;
use mdt_plugin_api::prelude::*;
use mdt_plugin_api::register::Connected;

use crate::setup::{blame, config, done, finish, job, run, run_with};

fn pairs(communicator: &Connected) -> &dyn PointToPoint {
    communicator.point_to_point.as_deref().unwrap()
}

#[test]
fn what_one_rank_sends_another_receives_in_order_and_of_any_size() {
    let values = |from: u32, index: usize| vec![(from * 100) as f32 + index as f32; [3, 0, 700_001, 1][index]];
    run(&job(3), |communicator| {
        let (own, pairs) = (communicator.rank(), pairs(&communicator));
        let mut works = Vec::new();
        for peer in (0..3).filter(|peer| *peer != own) {
            for index in 0..4 {
                works.push((None, pairs.send(values(own, index).into(), peer).unwrap()));
                let place = vec![-1f32; values(peer, index).len()].into();
                works.push((Some(values(peer, index)), pairs.receive(place, peer).unwrap()));
            }
        }
        let sum = communicator.all_reduce(vec![vec![1.0f32; 100_000].into()], ReduceOp::Sum);
        assert_eq!(done(sum), [vec![3.0f32; 100_000].into()], "collectives do not wait");
        for (expected, work) in works.into_iter().rev() {
            let buffers = done(Ok(work));
            if let Some(expected) = expected {
                assert_eq!(buffers, [Buffer::from(expected)]);
            }
        }
    });
}

#[test]
fn ranks_that_all_send_before_they_receive_do_not_wait_for_each_other() {
    run(&job(2), |communicator| {
        let (pairs, peer) = (pairs(&communicator), 1 - communicator.rank());
        let sent = pairs.send(vec![u64::from(communicator.rank()); 4 << 20].into(), peer).unwrap();
        let received = done(pairs.receive(vec![9u64; 4 << 20].into(), peer));
        assert_eq!(received, [Buffer::from(vec![u64::from(peer); 4 << 20])]);
        done(Ok(sent));
    });
}

#[test]
fn another_type_or_length_is_an_error_on_both_ranks_that_says_what_each_brought() {
    let said = run(&job(2), |communicator| {
        let pairs = pairs(&communicator);
        let work = match communicator.rank() {
            0 => pairs.send(vec![1.0f32; 5].into(), 1),
            _ => pairs.receive(vec![1u64; 5].into(), 0),
        };
        // The sender may have sent everything before it hears of it.
        let failed = finish(work).and_then(|_| finish(communicator.barrier()));
        failed.unwrap_err().message().to_owned()
    });
    for message in said {
        assert!(message.contains("float32 × 5") && message.contains("uint64 × 5"), "{message}");
    }
}

#[test]
fn a_rank_that_never_receives_or_never_sends_is_named() {
    let limits = Config { timeout_s: 0.4, ..config() };
    let said = run_with(&job(2), limits, |communicator| match communicator.rank() {
        0 => Some(blame(&finish(pairs(&communicator).receive(vec![0f32; 8].into(), 1)).unwrap_err())),
        _ => {
            thread::sleep(Duration::from_millis(900));
            None
        }
    });
    assert_eq!(said[0], Some(("rank 1 has not joined receive number 1 within 0.4 s".to_owned(), Some(1))));
}

#[test]
fn a_rank_that_is_not_there_is_refused_at_once() {
    run(&job(2), |communicator| {
        let own = communicator.rank();
        for rank in [own, 2] {
            let error = pairs(&communicator).send(vec![0f32].into(), rank).err().unwrap();
            assert_eq!(
                error.message(),
                format!(
                    "rank {own} cannot send with rank {rank} as the other side: choose another of the ranks 0 to 1"
                )
            );
        }
    });
}
