//! How ranks meet, and what they are told when one does not belong.

use std::io::Write;
use std::net::{Ipv6Addr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mdt_grpc::Config;
use mdt_plugin_api::prelude::*;

use crate::processes::{Rank, Role};
use crate::relay::{HANDSHAKE, Relay};
use crate::setup::{
    Host, LONG, backend, backend_of, blame, config, done, job, open_all, place, port, run, run_with, with,
};

fn patient(seconds: f64) -> Config {
    Config { connect_timeout_s: seconds, ..config() }
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
                let communicator = backend(config()).unwrap().open(&bootstrap).unwrap();
                done(communicator.all_reduce(vec![Buffer::from(vec![1u64])], ReduceOp::Sum))
            })
        };
        let ranks = [start(2, 0), start(0, 300), start(1, 500)];
        ranks.map(|rank| rank.join().unwrap())
    });
    assert_eq!(sums, [(); 3].map(|()| vec![Buffer::from(vec![3u64])]));
}

#[test]
fn another_configuration_is_refused_everywhere_with_the_keys_that_differ() {
    let mut ranks: Vec<_> = (0..3).map(|rank| Bootstrap { rank, ..job(3) }).collect();
    let port = port(&ranks[0]);
    for rank in &mut ranks {
        *rank = with(rank, "port", port);
        rank.identity = r#"{"optimizer.learning_rate":0.1,"seed":0,"trainer.batch_size":4}"#.into();
    }
    ranks[2].identity = r#"{"optimizer.learning_rate":0.2,"seed":0,"trainer.batch_size":8}"#.into();
    let expected = "the configuration of rank 2 differs from that of rank 0: `optimizer.learning_rate` is 0.1 on rank 0 \
                    and 0.2 on rank 2, `trainer.batch_size` is 4 on rank 0 and 8 on rank 2";
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
    let expected = format!("rank 0 was not reached at 127.0.0.1:{} within 0.5 s", port(&bootstrap));
    assert!(message.starts_with(&expected), "{message}");
    assert_eq!(rank, Some(0));
}

#[test]
fn a_port_that_is_taken_is_named_with_what_to_do() {
    let job = job(2);
    let _taken = TcpListener::bind(place(&job)).unwrap();
    let error = backend(config()).unwrap().open(&job).err().unwrap();
    assert_eq!(error.code(), ErrorCode::Config);
    assert_eq!(error.message(), format!("port {} of 127.0.0.1 is taken by another process", port(&job)));
    assert!(error.context().iter().any(|(key, advice)| key == "help" && advice.contains("choose another comm.port")));
}

#[test]
fn addresses_that_other_machines_reach_are_refused_unless_accepted() {
    let all_interfaces = |rank| Bootstrap { rank, ..with(&job(2), "address", "0.0.0.0") };
    for rank in 0..2 {
        let error = backend(config()).unwrap().open(&all_interfaces(rank)).err().unwrap();
        assert_eq!(error.code(), ErrorCode::Config);
        assert!(error.message().starts_with("0.0.0.0 is not a loopback address"), "{error}");
        assert!(error.context().iter().any(|(key, advice)| key == "help" && advice.contains("comm.insecure = true")));
    }

    let accepted = Config { insecure: true, ..patient(10.0) };
    let first = all_interfaces(0);
    let second = Bootstrap { rank: 1, ..with(&first, "address", "127.0.0.1") };
    let sums = open_all(&[first, second], &accepted, |communicator| {
        done(communicator.unwrap().all_reduce(vec![Buffer::from(vec![1u64])], ReduceOp::Sum))
    });
    assert_eq!(sums, [[Buffer::from(vec![2u64])], [Buffer::from(vec![2u64])]]);
}

#[test]
fn a_name_that_no_machine_has_is_a_configuration_error() {
    let bootstrap = with(&job(2), "address", "no-such-machine.invalid");
    let (host, begin) = (Arc::<Host>::default(), Instant::now());
    let error = backend_of(host.clone(), patient(1.2)).unwrap().open(&bootstrap).err().unwrap();
    assert_eq!(error.code(), ErrorCode::Config);
    assert!(error.message().contains("no-such-machine.invalid"), "{error}");
    // In some clusters names come to be known while ranks start.
    assert!(begin.elapsed() > Duration::from_millis(600), "{:?}", begin.elapsed());
    let said = "comm.address names no machine that is known here: \"no-such-machine.invalid\"; looking for 1.2 s";
    assert_eq!(*host.warnings.lock().unwrap(), [said]);
}

#[test]
fn a_cancelled_job_does_not_wait_for_ranks() {
    for rank in 0..2 {
        let host = Host { cancelled: true.into(), ..Host::default() };
        let begin = Instant::now();
        let error = backend_of(host.into(), config()).unwrap().open(&Bootstrap { rank, ..job(2) }).err().unwrap();
        assert_eq!(error.code(), ErrorCode::Cancelled);
        assert_eq!(error.message(), format!("cancelled while waiting for rank {}", 1 - rank));
        assert!(begin.elapsed() < Duration::from_secs(1));
    }
}

/// Two of three ranks wait for the last one; then one of the two is cancelled. Gives what both end with.
fn cancelled(victim: usize) -> [(ErrorCode, String); 2] {
    let (job, hosts) = (job(3), [0, 1].map(|_| Arc::<Host>::default()));
    std::thread::scope(|scope| {
        let start = |rank: u32| {
            let (host, bootstrap) = (Arc::clone(&hosts[rank as usize]), Bootstrap { rank, ..job.clone() });
            scope.spawn(move || backend_of(host, patient(10.0)).unwrap().open(&bootstrap).err().unwrap())
        };
        let ranks = [start(0), start(1)];
        std::thread::sleep(Duration::from_millis(500)); // both have come
        let begin = Instant::now();
        hosts[victim].cancelled.store(true, Ordering::Relaxed);
        let errors = ranks.map(|rank| rank.join().unwrap());
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
        errors.map(|error| (error.code(), error.message().to_owned()))
    })
}

#[test]
fn a_rank_that_is_cancelled_while_ranks_meet_says_whom_it_waited_for_and_the_others_name_it() {
    let waited = || (ErrorCode::Cancelled, "cancelled while waiting for rank 2".to_owned());
    let stopped = || (ErrorCode::Peer, "rank 0 was stopped while it waited for rank 2".to_owned());
    assert_eq!(cancelled(0), [waited(), stopped()]);
    let [first, second] = cancelled(1);
    assert!(first.1.starts_with("rank 1 was lost"), "{}", first.1);
    assert_eq!(second, waited());
}

#[test]
fn a_rank_that_dies_while_ranks_meet_is_named_by_the_others_within_a_second() {
    for victim in [0, 1] {
        let job = job(3);
        let mut ranks = [0, 1].map(|rank| Rank::of(&job, rank, Role::Reduces));
        std::thread::sleep(Duration::from_millis(700)); // both have come
        let begin = Instant::now();
        ranks[victim].signal(libc::SIGKILL);
        let said = ranks[1 - victim].says();
        assert!(said.starts_with(&format!("Some({victim}) rank {victim} was lost: ")), "{said}");
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    }
}

#[test]
fn a_stream_that_breaks_before_it_is_open_on_both_sides_is_opened_again() {
    let job = job(2);
    // Cut when rank 1 has asked for the stream of collectives, its second request, and has read no answer.
    let relay = Relay::start(port(&job), |bytes| requests(bytes) == 2);
    let one = Bootstrap { rank: 1, ..with(&job, "port", relay.port) };
    let results = open_all(&[job, one], &patient(10.0), |communicator| done(communicator.unwrap().barrier()));
    assert_eq!(results, [const { Vec::<Buffer>::new() }; 2]);
    assert_eq!(relay.connections(), 2 + DATA, "the control connection twice, and then those of data");
}

/// Data connections between two ranks: one for collectives, and one in each direction from rank to rank.
const DATA: usize = 3;

/// The number of requests that a dialler has sent on a connection: HTTP/2 HEADERS frames behind the handshake and the
/// preface.
fn requests(bytes: &[u8]) -> usize {
    let mut rest = bytes.get(HANDSHAKE + 24..).unwrap_or_default();
    let mut requests = 0;
    while let [a, b, c, kind, ..] = *rest {
        let length = 9 + u32::from_be_bytes([0, a, b, c]) as usize;
        requests += usize::from(kind == 1);
        rest = rest.get(length..).unwrap_or_default();
    }
    requests
}

#[test]
fn ranks_meet_by_the_name_of_a_machine_that_knows_itself_as_127_0_1_1() {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let known = (name.as_str(), 0).to_socket_addrs().map(Iterator::collect::<Vec<_>>).unwrap_or_default();
    if known.is_empty() || known.iter().any(|address| !address.ip().is_loopback()) {
        return; // this machine knows itself by an address of its network, or not at all
    }
    let job = with(&job(3), "address", name);
    let error = backend(patient(1.0)).unwrap().open(&job).err().unwrap();
    assert_eq!(error.code(), ErrorCode::Config);
    if error.message().contains("which this machine knows as 127.") {
        return; // it has no other address
    }
    assert!(error.message().ends_with("and without comm.tls nothing is encrypted"), "{error}");
    let accepted = Config { insecure: true, ..patient(10.0) };
    run_with(&job, accepted, |communicator| done(communicator.barrier()));
}

#[test]
fn ranks_meet_at_ipv6_addresses_with_a_scope() {
    let interfaces = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let fields = interfaces.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let link_local = fields.filter(|fields| fields[3] == "20").find_map(|fields| {
        let number = u128::from_str_radix(fields[0], 16).ok()?;
        Some(format!("{}%{}", Ipv6Addr::from_bits(number), fields[5]))
    });
    for address in ["::1%1".to_owned()].into_iter().chain(link_local) {
        let job = with(&job(3), "address", address);
        if TcpListener::bind((place(&job).0, 0)).is_err() {
            continue; // IPv6 is off
        }
        let limits = Config { insecure: true, ..patient(5.0) };
        run_with(&job, limits, |communicator| done(communicator.barrier()));
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
        let knock = || TcpStream::connect(place(&job));
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
