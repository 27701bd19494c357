//! How ranks meet, and what they are told when one does not belong.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use mdt_grpc::Config;
use mdt_plugin_api::prelude::*;

use crate::setup::{LONG, backend, blame, cancelled_backend, done, job, open_all, run};

fn patient(seconds: f64) -> Config {
    Config { connect_timeout_s: seconds, ..Config::default() }
}

/// Opens these at once and gives the errors that they all must end with.
fn refusals(bootstraps: &[Bootstrap]) -> Vec<(String, Option<u32>)> {
    open_all(bootstraps, &patient(10.0), |communicator| blame(&communicator.err().unwrap()))
}

#[test]
fn ranks_meet_in_whatever_order_they_start() {
    let job = job(3);
    let late = job.clone();
    let sums = std::thread::scope(|scope| {
        let start = |rank: u32, delay| {
            let bootstrap = Bootstrap { rank, ..late.clone() };
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(delay));
                let communicator = backend(Config::default()).unwrap().open(&bootstrap).unwrap();
                done(communicator.all_reduce(vec![Buffer::U64(vec![1])], ReduceOp::Sum))
            })
        };
        let ranks = [start(2, 0), start(0, 300), start(1, 500)];
        ranks.map(|rank| rank.join().unwrap())
    });
    assert_eq!(sums, [const { [Buffer::U64(Vec::new())] }; 3].map(|_| vec![Buffer::U64(vec![3])]));
}

#[test]
fn another_configuration_is_refused_everywhere_with_the_keys_that_differ() {
    let mut ranks: Vec<_> = (0..3).map(|rank| Bootstrap { rank, ..job(3) }).collect();
    let port = ranks[0].port;
    for rank in &mut ranks {
        rank.port = port;
        rank.job = r#"{"optimizer.learning_rate":0.1,"seed":0,"trainer.batch_size":4}"#.into();
    }
    ranks[2].job = r#"{"optimizer.learning_rate":0.2,"seed":0,"trainer.batch_size":8}"#.into();
    let expected = "the configuration of rank 2 is not that of rank 0: `optimizer.learning_rate` is 0.1 on rank 0 and \
                    0.2 on rank 2, `trainer.batch_size` is 4 on rank 0 and 8 on rank 2";
    for (message, rank) in refusals(&ranks) {
        assert_eq!((message.as_str(), rank), (expected, Some(2)));
    }
}

#[test]
fn another_world_size_is_refused_everywhere() {
    let job = job(2);
    let other = Bootstrap { rank: 1, world_size: 3, ..job.clone() };
    for (message, rank) in refusals(&[job, other]) {
        assert_eq!((message.as_str(), rank), ("comm.world_size is 2 on rank 0 and 3 on rank 1", Some(1)));
    }
}

#[test]
fn a_rank_that_is_taken_twice_is_an_error_everywhere() {
    let job = job(3);
    let one = Bootstrap { rank: 1, ..job.clone() };
    for (message, rank) in refusals(&[job, one.clone(), one]) {
        assert_eq!((message.as_str(), rank), ("two processes came as rank 1", Some(1)));
    }
}

#[test]
fn ranks_that_never_come_are_named_by_all_that_have() {
    let job = job(4);
    let one = Bootstrap { rank: 1, ..job.clone() };
    let errors = open_all(&[job, one], &patient(0.8), |communicator| blame(&communicator.err().unwrap()));
    for error in errors {
        assert_eq!(error, ("ranks 2 and 3 have not come within 0.8 s".into(), Some(2)));
    }
}

#[test]
fn a_missing_rank_0_is_named_with_its_address() {
    let bootstrap = Bootstrap { rank: 1, ..job(2) };
    let (message, rank) = blame(&backend(patient(0.5)).unwrap().open(&bootstrap).err().unwrap());
    let expected = format!("rank 0 was not reached at 127.0.0.1:{} within 0.5 s", bootstrap.port);
    assert!(message.starts_with(&expected), "{message}");
    assert_eq!(rank, Some(0));
}

#[test]
fn a_port_that_is_taken_is_named_with_what_to_do() {
    let job = job(2);
    let _taken = TcpListener::bind((job.address.as_str(), job.port)).unwrap();
    let error = backend(Config::default()).unwrap().open(&job).err().unwrap();
    assert_eq!(error.code(), ErrorCode::Config);
    assert_eq!(error.message(), format!("port {} of 127.0.0.1 is taken by another process", job.port));
    assert!(error.context().iter().any(|(key, advice)| key == "help" && advice.contains("choose another comm.port")));
}

#[test]
fn addresses_that_other_machines_reach_are_refused_unless_accepted() {
    let all_interfaces = |rank| Bootstrap { rank, address: "0.0.0.0".into(), ..job(2) };
    for rank in 0..2 {
        let error = backend(Config::default()).unwrap().open(&all_interfaces(rank)).err().unwrap();
        assert_eq!(error.code(), ErrorCode::Config);
        assert!(error.message().starts_with("0.0.0.0 is not a loopback address"), "{error}");
        assert!(error.context().iter().any(|(key, advice)| key == "help" && advice.contains("comm.insecure = true")));
    }

    let config = Config { insecure: true, ..patient(10.0) };
    let first = all_interfaces(0);
    let second = Bootstrap { rank: 1, address: "127.0.0.1".into(), ..first.clone() };
    let sums = open_all(&[first, second], &config, |communicator| {
        done(communicator.unwrap().all_reduce(vec![Buffer::U64(vec![1])], ReduceOp::Sum))
    });
    assert_eq!(sums, [[Buffer::U64(vec![2])], [Buffer::U64(vec![2])]]);
}

#[test]
fn a_name_that_no_machine_has_is_a_configuration_error() {
    let bootstrap = Bootstrap { address: "no-such-machine.invalid".into(), ..job(2) };
    let error = backend(Config::default()).unwrap().open(&bootstrap).err().unwrap();
    assert_eq!(error.code(), ErrorCode::Config);
    assert!(error.message().contains("no-such-machine.invalid"), "{error}");
}

#[test]
fn a_cancelled_job_does_not_wait_for_ranks() {
    for rank in 0..2 {
        let begin = Instant::now();
        let error = cancelled_backend().open(&Bootstrap { rank, ..job(2) }).err().unwrap();
        assert_eq!(error.code(), ErrorCode::Cancelled);
        assert!(begin.elapsed() < Duration::from_secs(1));
    }
}

#[test]
fn times_that_cannot_be_are_configuration_errors() {
    for seconds in [0.0, -1.0, f64::NAN, 1e9] {
        let error = backend(patient(seconds)).err().unwrap();
        assert_eq!(error.code(), ErrorCode::Config);
        assert!(error.message().starts_with("comm.connect_timeout_s must be above 0"), "{error}");
    }
}

#[test]
fn strangers_at_the_port_disturb_nobody() {
    let job = job(2);
    std::thread::scope(|scope| {
        let start = |rank| {
            let bootstrap = Bootstrap { rank, ..job.clone() };
            scope.spawn(move || done(backend(patient(10.0)).unwrap().open(&bootstrap).unwrap().barrier()))
        };
        let first = start(0);
        let knock = || TcpStream::connect((job.address.as_str(), job.port));
        let begin = Instant::now();
        while knock().is_err() {
            assert!(begin.elapsed() < LONG);
        }
        let mut strangers: Vec<_> = (0..8).map(|_| knock().unwrap()).collect();
        for (index, stranger) in strangers.iter_mut().enumerate() {
            let _ = stranger.write_all(if index % 2 == 0 { b"GET / HTTP/1.1\r\n\r\n" } else { &[0xff; 100_000] });
        }
        assert!(start(1).join().unwrap().is_empty());
        assert!(first.join().unwrap().is_empty());
    });
}

#[test]
fn a_communicator_is_closed_at_once() {
    for time in run(&job(3), |communicator| {
        done(communicator.barrier());
        let begin = Instant::now();
        drop(communicator);
        begin.elapsed()
    }) {
        assert!(time < Duration::from_millis(500), "{time:?}");
    }
}
