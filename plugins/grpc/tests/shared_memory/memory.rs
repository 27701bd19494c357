//! Memory that ranks share: regions, ranks that die while others use their memory, ranks that cannot share it.

use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use mdt_grpc::{Config, SharedMemoryUse};
use mdt_plugin_api::prelude::*;
use mdt_plugin_api::register::Connected;

use crate::processes::Role::{Cramped, Reduces};
use crate::processes::{Rank, after_a_while};
use crate::setup::{Host, TOKEN, backend_of, config, done, job, run, token_file};

/// Numbers of a rank, of very different sizes.
fn numbers(rank: u32, length: usize) -> Vec<f32> {
    (0..length).map(|index| (index as f32 * 0.37 + rank as f32).sin() * 10f32.powi((index % 13) as i32 - 6)).collect()
}

/// The pairwise tree of up to four ranks.
fn sum_of(world_size: u32, length: usize) -> Vec<f32> {
    let ranks: Vec<_> = (0..world_size).map(|rank| numbers(rank, length)).collect();
    let element = |index: usize| match &ranks[..] {
        [a, b] => a[index] + b[index],
        [a, b, c] => (a[index] + b[index]) + c[index],
        [a, b, c, d] => (a[index] + b[index]) + (c[index] + d[index]),
        _ => unreachable!(),
    };
    (0..length).map(element).collect()
}

/// A buffer with the rank's numbers, in memory of the communicator or elsewhere.
fn buffer(communicator: &Connected, length: usize, in_region: bool) -> Buffer {
    let own = numbers(communicator.rank(), length);
    if !in_region {
        return own.into();
    }
    let region = communicator.regions.as_ref().unwrap().region(4 * length + 4).unwrap();
    let mut buffer = region.buffer::<f32>(1..length + 1).unwrap();
    buffer.as_mut_slice().unwrap().copy_from_slice(&own);
    buffer
}

#[test]
fn sums_have_the_same_bits_wherever_the_buffers_of_each_rank_lie() {
    // By rank and buffer: none in regions, all, some, and not the same ones on all ranks.
    let cases: [fn(u32, usize) -> bool; 4] =
        [|_, _| false, |_, _| true, |_, buffer| buffer != 1, |rank, buffer| rank as usize != buffer];
    for world_size in 2..=4 {
        for in_region in cases {
            for lengths in [[1, 0, 5], [300, 1, 20_001], [400_003, 100_000, 7]] {
                let results = run(&job(world_size), |communicator| {
                    let own = |(index, length)| buffer(&communicator, length, in_region(communicator.rank(), index));
                    let buffers: Vec<Buffer> = lengths.into_iter().enumerate().map(own).collect();
                    let places: Vec<_> = buffers.iter().map(|buffer| buffer.bytes().as_ptr() as usize).collect();
                    let sums = done(communicator.all_reduce(buffers, ReduceOp::Sum));
                    assert!(sums.iter().zip(places).all(|(sum, place)| sum.bytes().as_ptr() as usize == place));
                    sums
                });
                for result in results {
                    for (length, sum) in lengths.into_iter().zip(result) {
                        assert!(sum == Buffer::from(sum_of(world_size, length)), "{length} over {world_size} ranks");
                    }
                }
            }
        }
    }
}

#[test]
fn a_part_of_a_sum_in_a_region_has_the_bits_of_the_whole_one() {
    for (world_size, length) in [(2, 14), (3, 300_003), (4, 16_384)] {
        run(&job(world_size), |communicator| {
            let own = buffer(&communicator, length, true);
            let able = communicator.reduce_scatter.as_ref().unwrap();
            let result = done(able.reduce_scatter(own, ReduceOp::Sum));
            let part = length / world_size as usize * communicator.rank() as usize;
            let part = part..part + length / world_size as usize;
            assert!(result[0].as_slice::<f32>().unwrap()[part.clone()] == sum_of(world_size, length)[part]);
        });
    }
}

#[test]
fn regions_come_and_go_in_any_order_and_keep_what_is_written() {
    run(&job(2), |communicator| {
        let regions = communicator.regions.as_ref().unwrap();
        let mut kept = Vec::new();
        for round in 0..40usize {
            let length = 1 + round * 7919 % 30_000;
            let region = regions.region(8 * length).unwrap();
            region.buffer::<u64>(0..length).unwrap().as_mut_slice::<u64>().unwrap().fill(round as u64);
            kept.push((round as u64, length, region));
            if round % 3 == 2 {
                kept.swap_remove(round * 31 % kept.len());
            }
        }
        for (value, length, region) in kept {
            assert!(region.buffer::<u64>(0..length).unwrap().as_slice::<u64>().unwrap().iter().all(|it| *it == value));
        }
    });
}

#[test]
fn ranks_that_are_killed_at_any_moment_are_named_and_no_result_is_torn() {
    for milliseconds in [1, 23, 71, 140] {
        let victim = milliseconds as usize % 3;
        let ranks = Rank::start(&[Reduces, Reduces, Reduces]);
        for (said, time) in after_a_while(Duration::from_millis(milliseconds), victim, ranks, libc::SIGKILL) {
            assert!(said.starts_with(&format!("Some({victim}) rank {victim} was lost: ")), "{said}");
            assert!(time < Duration::from_secs(1), "{said}: after {time:?}");
        }
    }
    let left = |directory: &str| fs::read_dir(directory).into_iter().flatten().flatten();
    assert!(!left("/dev/shm").any(|entry| entry.file_name().to_string_lossy().contains("mdt")));
}

#[test]
fn ranks_of_which_one_can_share_no_memory_exchange_data_over_tcp() {
    let ranks = Rank::start(&[Reduces, Cramped]);
    let said = after_a_while(Duration::from_millis(50), 1, ranks, libc::SIGKILL);
    assert!(said[0].0.contains("rank 1 was lost"), "{said:?}");
}

#[test]
fn the_first_rank_says_which_way_data_goes() {
    let notes = |shared_memory| {
        let config = Config { token_file: Some(token_file("noted", TOKEN, 0o600)), shared_memory, ..config() };
        let (job, host) = (job(2), Arc::new(Host::default()));
        thread::scope(|scope| {
            for rank in 0..2 {
                let (job, host, config) = (Bootstrap { rank, ..job.clone() }, Arc::clone(&host), config.clone());
                scope.spawn(move || done(backend_of(host, config).unwrap().open(&job).unwrap().barrier()));
            }
        });
        host.notes.lock().unwrap().clone()
    };
    let off = "the ranks exchange data over TCP, not through shared memory: rank 0 has comm.shared_memory = \"off\"";
    assert_eq!(notes(SharedMemoryUse::Off), [off]);
    if cfg!(target_os = "linux") {
        assert_eq!(notes(SharedMemoryUse::Auto), ["the ranks of this host exchange data through shared memory"]);
    }
}
