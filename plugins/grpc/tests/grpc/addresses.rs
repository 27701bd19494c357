//! Where ranks listen and are reached: Unix sockets, ranges of ports, addresses that are told apart from those that are
//! bound, interfaces.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;

use mdt_grpc::Config;
use mdt_plugin_api::prelude::*;

use crate::network::{free_port, free_ports};
use crate::setup::{TOKEN, backend, config, done, job, run, run_with, with};

fn socket(name: &str) -> PathBuf {
    // The path of a socket has 104 bytes at most on some systems.
    std::env::temp_dir().join(format!("mdt-{name}-{}", std::process::id()))
}

fn at_socket(job: &Bootstrap, path: &std::path::Path) -> Bootstrap {
    with(job, "address", format!("unix:{}", path.display()))
}

#[test]
fn ranks_of_one_machine_meet_at_a_unix_socket_that_is_gone_afterwards() {
    let path = socket("meet");
    let of_rank_1 = PathBuf::from(format!("{}.1", path.display()));
    let all = run(&at_socket(&job(3), &path), |communicator| {
        done(communicator.barrier());
        done(communicator.all_gather(vec![u64::from(communicator.rank())].into()))
    });
    assert!(all.iter().all(|gathered| *gathered == [0u64, 1, 2].map(|rank| Buffer::from(vec![rank]))));
    assert!(!path.exists() && !of_rank_1.exists());
}

#[test]
fn a_socket_that_a_killed_rank_has_left_is_replaced_and_one_that_answers_is_not() {
    let path = socket("left");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let job = at_socket(&job(2), &path);
    run(&job, |communicator| done(communicator.barrier()));

    let _taken = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let error = backend(config()).unwrap().open(&job).err().unwrap();
    assert_eq!(error.code(), ErrorCode::Config);
    assert_eq!(error.message(), format!("the socket {} is taken by another process", path.display()));
    fs::remove_file(&path).unwrap();
}

#[test]
fn a_socket_is_open_to_its_owner_only_and_a_file_in_its_place_is_left_alone() {
    let path = socket("mode");
    let job = at_socket(&job(2), &path);
    thread::scope(|scope| {
        let (zero, one) = (job.clone(), Bootstrap { rank: 1, ..job.clone() });
        let first = scope.spawn(move || done(backend(config()).unwrap().open(&zero).unwrap().barrier()));
        while UnixStream::connect(&path).is_err() {
            thread::yield_now();
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        done(backend(config()).unwrap().open(&one).unwrap().barrier());
        first.join().unwrap();
    });
    fs::write(&path, "mine").unwrap();
    let error = backend(config()).unwrap().open(&job).err().unwrap();
    assert_eq!(error.code(), ErrorCode::Config, "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    fs::remove_file(&path).unwrap();
}

#[test]
fn ranks_of_a_machine_share_a_range_of_ports() {
    let first = free_ports(9);
    let taken = TcpListener::bind(("127.0.0.1", first));
    let limits = Config { ports: Some(format!("{first}-{}", first + 8)), ..config() };
    assert_eq!(run_with(&job(3), limits, |communicator| done(communicator.barrier())).len(), 3);
    drop(taken);
}

#[test]
fn ports_that_are_all_taken_are_named() {
    let port = free_port();
    let _taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    for (ports, message) in [
        (port.to_string(), format!("port {port} of 127.0.0.1 is taken by another process")),
        ("60-50".to_owned(), "comm.ports must be a port or a range of ports, not \"60-50\"".to_owned()),
    ] {
        let config = Config { ports: Some(ports), ..config() };
        let error = backend(config).unwrap().open(&Bootstrap { rank: 1, ..job(3) }).err().unwrap();
        assert_eq!((error.code(), error.message()), (ErrorCode::Config, message.as_str()));
    }
}

#[test]
fn a_rank_is_reached_at_what_it_tells_and_listens_at_what_it_binds() {
    let everywhere = Config { bind: Some("0.0.0.0".into()), insecure: true, ..config() };
    let job = job(3);
    for advertise in [None, Some("localhost".to_owned()), Some("127.0.0.1".to_owned())] {
        let limits = Config { advertise, ..everywhere.clone() };
        run_with(&job, limits, |communicator| done(communicator.barrier()));
    }
    let nowhere = Config { advertise: Some("no-such-machine.invalid".into()), ..config() };
    thread::scope(|scope| {
        let ranks: Vec<_> = [config(), nowhere, config()].into_iter().zip(0..).collect();
        let opened = ranks.into_iter().map(|(config, rank)| {
            let bootstrap = Bootstrap { rank, ..job.clone() };
            scope.spawn(move || backend(config).unwrap().open(&bootstrap).err())
        });
        let errors: Vec<_> = opened.collect::<Vec<_>>().into_iter().map(|rank| rank.join().unwrap()).collect();
        let said = errors[2].as_ref().unwrap().message();
        assert!(said.starts_with("rank 1 is not found at \"no-such-machine.invalid:"), "{said}");
    });
}

#[test]
fn binding_where_others_can_reach_it_needs_encryption_or_consent() {
    let config = Config { bind: Some("0.0.0.0".into()), ..config() };
    let error = backend(config).unwrap().open(&job(2)).err().unwrap();
    assert_eq!(error.code(), ErrorCode::Config);
    assert_eq!(error.message(), "0.0.0.0 is not a loopback address, and without comm.tls nothing is encrypted");
}

#[test]
fn an_interface_is_chosen_by_name() {
    let loopback = if cfg!(target_os = "macos") { "lo0" } else { "lo" };
    let limits = Config { interface: Some(loopback.into()), ..config() };
    run_with(&job(3), limits, |communicator| done(communicator.barrier()));
    let config = Config { interface: Some("eth-none".into()), ..config() };
    let error = backend(config).unwrap().open(&job(2)).err().unwrap();
    assert!(error.message().starts_with("comm.interface is \"eth-none\", and this machine has no such"), "{error}");
    assert!(error.context().iter().any(|(key, help)| key == "help" && help.contains(loopback)), "{error:?}");
}

#[test]
fn a_job_that_runs_listens_nowhere() {
    let job = with(&job(2), "token", TOKEN);
    run(&job, |communicator| {
        done(communicator.barrier());
        let place = (job.value("address").unwrap(), crate::setup::port(&job));
        // The accepting task ends at its next turn.
        let begin = std::time::Instant::now();
        while std::net::TcpStream::connect(place).is_ok() {
            assert!(begin.elapsed() < crate::setup::LONG, "it still listens");
            thread::sleep(std::time::Duration::from_millis(5));
        }
        done(communicator.barrier());
    });
}
