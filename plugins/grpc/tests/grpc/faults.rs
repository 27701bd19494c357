//! Ranks that die, stop, stall, leave or give up: who is named, by whom, and how soon.

use std::thread;
use std::time::{Duration, Instant};

use mdt_grpc::Config;
use mdt_plugin_api::prelude::*;

use crate::processes::Role::{Computes, Reduces};
use crate::processes::{Rank, after};
use crate::setup::{LONG, config, done, failure, job, run, run_with};

fn assert_named(rank: u32, survivors: Vec<(String, Duration)>, limit: Duration) {
    for (said, time) in survivors {
        assert!(said.starts_with(&format!("Some({rank}) rank {rank} was lost: ")), "{said}");
        assert!(time < limit, "{said}: after {time:?}");
    }
}

#[test]
fn a_killed_rank_is_named_by_every_survivor_within_a_second() {
    let second = Duration::from_secs(1);
    assert_named(2, after(2, Rank::start(&[Reduces, Reduces, Reduces]), libc::SIGKILL), second);
    assert_named(1, after(1, Rank::start(&[Reduces, Computes, Reduces]), libc::SIGKILL), second);
}

#[test]
fn the_death_of_rank_0_is_noticed_like_any_other() {
    assert_named(0, after(0, Rank::start(&[Computes, Reduces, Reduces]), libc::SIGKILL), Duration::from_secs(1));
}

#[test]
fn a_stopped_rank_is_named_within_five_seconds() {
    assert_named(1, after(1, Rank::start(&[Reduces, Reduces, Reduces]), libc::SIGSTOP), Duration::from_secs(5));
}

#[test]
fn an_abort_ends_collectives_under_way_and_later_ones_everywhere() {
    let errors = run(&job(3), |communicator| {
        if communicator.rank() == 1 {
            thread::sleep(Duration::from_millis(100)); // the others wait for this rank
            communicator.abort("the disk is full");
        }
        [failure(communicator.barrier()), failure(communicator.barrier())]
    });
    let expected = || ("rank 1 aborted: the disk is full".to_owned(), Some(1));
    assert_eq!(errors, vec![[expected(), expected()]; 3]);
}

#[test]
fn who_gives_up_because_of_another_rank_is_not_blamed() {
    let errors = run(&job(3), |communicator| {
        match communicator.rank() {
            0 => thread::sleep(Duration::from_millis(300)), // hears of both before it begins
            1 => {}
            _ => communicator.abort("first"),
        }
        let failure = failure(communicator.barrier());
        communicator.abort("second");
        failure
    });
    assert_eq!(errors, vec![("rank 2 aborted: first".to_owned(), Some(2)); 3]);
}

#[test]
fn a_rank_that_does_not_come_in_time_is_named() {
    let limits = Config { timeout_s: 0.4, ..config() };
    let errors = run_with(&job(3), limits, |communicator| {
        if communicator.rank() == 1 {
            thread::sleep(Duration::from_millis(900));
        }
        failure(communicator.all_reduce(vec![Buffer::from(vec![0.0f32; 100_000])], ReduceOp::Sum))
    });
    let expected = "rank 1 has not joined all_reduce number 1 within 0.4 s";
    assert_eq!(errors, vec![(expected.to_owned(), Some(1)); 3]);
}

#[test]
fn time_that_a_rank_computes_between_collectives_does_not_count_against_it() {
    let limits = Config { timeout_s: 0.5, ..config() };
    run_with(&job(2), limits, |communicator| {
        done(communicator.barrier());
        thread::sleep(Duration::from_millis(800)); // both
        done(communicator.barrier());
    });
}

#[test]
fn a_collective_that_needs_a_rank_that_has_left_names_it() {
    let errors = run(&job(3), |communicator| {
        done(communicator.barrier());
        if communicator.rank() == 1 {
            return None; // a goodbye is no error to anybody who needs nothing more
        }
        thread::sleep(Duration::from_millis(200));
        Some(failure(communicator.barrier()))
    });
    let expected = || Some(("rank 1 has left the job, and barrier number 2 needs it".to_owned(), Some(1)));
    assert_eq!(errors, [expected(), None, expected()]);
}

#[test]
fn waiting_can_be_given_up_and_taken_up_again() {
    let results = run(&job(2), |communicator| {
        if communicator.rank() == 1 {
            thread::sleep(Duration::from_millis(300));
            return done(communicator.all_gather(Buffer::from(vec![1u64])));
        }
        let mut work = communicator.all_gather(Buffer::from(vec![0u64])).unwrap();
        assert!(matches!(work.wait(Duration::from_millis(10)), Ok(Outcome::TimedOut)));
        assert!(matches!(work.wait(Duration::ZERO), Ok(Outcome::TimedOut)));
        done(Ok(work))
    });
    assert_eq!(results, vec![vec![Buffer::from(vec![0u64]), Buffer::from(vec![1u64])]; 2]);
}

#[test]
fn a_result_that_nobody_waits_for_is_still_computed_for_the_others() {
    let sums = run(&job(2), |communicator| {
        let sum = |value: u64| communicator.all_reduce(vec![Buffer::from(vec![value; 50_000])], ReduceOp::Sum);
        let first = sum(1);
        let first = if communicator.rank() == 0 { None } else { Some(done(first)) };
        (first, done(sum(2)))
    });
    let buffers = |value: u64| vec![Buffer::from(vec![value; 50_000])];
    assert_eq!(sums, [(None, buffers(4)), (Some(buffers(2)), buffers(4))]);
}

#[test]
fn a_communicator_that_is_dropped_in_the_middle_of_a_collective_is_closed_soon() {
    let results = run(&job(2), |communicator| {
        if communicator.rank() == 1 {
            thread::sleep(Duration::from_millis(100));
            return failure(communicator.barrier()).0;
        }
        let mut work = communicator.barrier().unwrap();
        let begin = Instant::now();
        drop(communicator);
        assert!(begin.elapsed() < Duration::from_millis(1500));
        work.wait(LONG).unwrap_err().message().to_owned()
    });
    assert_eq!(results[0], "the collective is over: its result was taken, or the communicator was closed");
    assert_eq!(results[1], "rank 0 has left the job, and barrier number 1 needs it");
}
