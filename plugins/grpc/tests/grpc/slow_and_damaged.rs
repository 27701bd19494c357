//! Networks that are slow, cut, or damage data: a slow one is waited for, the others are errors that name a rank.

use std::thread;
use std::time::{Duration, Instant};

use mdt_grpc::Config;
use mdt_plugin_api::prelude::*;
use mdt_plugin_api::register::Connected;

use crate::network::{Network, Relay};
use crate::setup::{config, done, failure, finish, job, open_all, port, with};

/// Runs ranks of which rank 1 reaches rank 0 through a relay.
fn run_through<T: Send>(
    world_size: u32,
    network: Network,
    timeout_s: f64,
    rank: impl Fn(Connected, &Relay) -> T + Sync,
) -> Vec<T> {
    let job = job(world_size);
    let relay = Relay::start(port(&job), network);
    let at = |rank| if rank == 1 { relay.port } else { port(&job) };
    let ranks: Vec<_> = (0..world_size).map(|rank| Bootstrap { rank, ..with(&job, "port", at(rank)) }).collect();
    let config = Config { timeout_s, ..config() };
    open_all(&ranks, &config, |communicator| rank(communicator.unwrap(), &relay))
}

#[test]
fn a_transfer_takes_as_long_as_it_takes_while_data_moves() {
    let network = Network { bytes_per_second: Some(6 << 20), ..Network::default() };
    let sums = run_through(2, network, 1.0, |communicator, _| {
        let begin = Instant::now();
        let value = 1.0 + communicator.rank() as f32;
        let sum = done(communicator.all_reduce(vec![Buffer::from(vec![value; 4 << 20])], ReduceOp::Sum));
        (sum == [Buffer::from(vec![3.0f32; 4 << 20])], begin.elapsed() > Duration::from_secs(2))
    });
    assert_eq!(sums, [(true, true); 2], "the sum, and that it took longer than comm.timeout_s");
}

#[test]
fn a_rank_that_still_receives_is_neither_lost_nor_late_for_the_others() {
    // Only rank 0 sends, so that rank 1 answers pings seconds later. Rank 2 has everything at once and waits.
    let network = Network { bytes_per_second: Some(3 << 19), ..Network::default() };
    run_through(3, network, 2.0, |communicator, _| {
        let received = done(communicator.broadcast(vec![Buffer::from(vec![communicator.rank() as u8; 9 << 20])], 0));
        assert!(received == [Buffer::from(vec![0u8; 9 << 20])]);
        let begin = Instant::now();
        done(communicator.barrier());
        if communicator.rank() == 2 {
            assert!(begin.elapsed() > Duration::from_secs(3), "the link was not slow: {:?}", begin.elapsed());
        }
    });
}

#[test]
fn ranks_behind_a_cut_network_name_each_other_within_ten_seconds() {
    let errors = run_through(2, Network::default(), 30.0, |communicator, relay| {
        done(communicator.barrier());
        thread::sleep(Duration::from_millis(300)); // until both are done
        relay.cut();
        let begin = Instant::now();
        let (message, rank) = failure(communicator.barrier());
        assert!(begin.elapsed() < Duration::from_secs(10), "after {:?}", begin.elapsed());
        (message.contains("was lost"), rank)
    });
    assert_eq!(errors, [(true, Some(1)), (true, Some(0))]);
}

#[test]
fn a_bit_that_is_flipped_on_the_way_never_changes_a_result() {
    let results = thread::scope(|scope| {
        let at = |damaged_byte| {
            let network = Network { damaged_byte: Some(damaged_byte), ..Network::default() };
            scope.spawn(move || {
                run_through(2, network, 1.0, |communicator, _| {
                    let values = vec![Buffer::from(vec![1.0f32; 1 << 19]), Buffer::from(vec![2.0f64; 3])];
                    let outcome = finish(communicator.all_reduce(values, ReduceOp::Sum));
                    let is_right =
                        |sum: Vec<Buffer>| sum == [Buffer::from(vec![2.0f32; 1 << 19]), Buffer::from(vec![4.0f64; 3])];
                    outcome.map(is_right).map_err(|error| error.message().to_owned())
                })
            })
        };
        // In the contribution of rank 1, and in its result.
        let tests: Vec<_> = (1..24).map(|piece| at(piece * 86_243)).collect();
        tests.into_iter().flat_map(|test| test.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(!results.contains(&Ok(false)), "{results:?}");
    let said = |part: &str| results.iter().filter(|result| matches!(result, Err(text) if text.contains(part))).count();
    assert!(said("bytes from rank 1 to rank 0 were damaged on the way") > 10, "{results:?}");
}
