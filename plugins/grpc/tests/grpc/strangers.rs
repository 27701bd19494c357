//! Processes that are no rank of the job: they learn nothing, join nothing, and keep no rank out.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use mdt_grpc::Config;
use mdt_plugin_api::prelude::*;

use crate::relay::{ANSWER, HANDSHAKE, Relay};
use crate::setup::{
    Host, LONG, TOKEN, backend, backend_of, blame, config, done, job, open_all, place, port, token_file, with,
};

/// A job with a configuration that strangers would like to know.
fn secretive() -> Bootstrap {
    Bootstrap { identity: r#"{"model.path":"/secret/model","seed":0}"#.into(), ..job(2) }
}

/// Runs rank 0 of a job while `strangers` do what they can; then rank 1 comes, and both pass a barrier.
fn beside<T>(job: &Bootstrap, strangers: impl FnOnce() -> T) -> T {
    thread::scope(|scope| {
        let start = |rank| {
            let bootstrap = Bootstrap { rank, ..job.clone() };
            scope.spawn(move || {
                let begin = Instant::now();
                let communicator = backend(Config { connect_timeout_s: 30.0, ..config() }).unwrap().open(&bootstrap);
                (done(communicator.unwrap().barrier()), begin.elapsed())
            })
        };
        let first = start(0);
        let outcome = strangers();
        let (_, time) = start(1).join().unwrap();
        assert!(time < Duration::from_secs(3), "rank 1 was kept out for {time:?}");
        first.join().unwrap();
        outcome
    })
}

/// Connects as soon as rank 0 listens.
fn knock(job: &Bootstrap) -> TcpStream {
    let begin = Instant::now();
    loop {
        if let Ok(stream) = TcpStream::connect(place(job)) {
            stream.set_read_timeout(Some(LONG)).unwrap();
            return stream;
        }
        assert!(begin.elapsed() < LONG);
        thread::sleep(Duration::from_millis(5));
    }
}

/// The first message of a handshake.
fn opening() -> Vec<u8> {
    [b"mdtrank\x05".as_slice(), &[7; 32]].concat()
}

/// All that comes until the other side ends the connection.
fn all_from(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes); // an end by reset is an end
    bytes
}

#[test]
fn a_hundred_idle_connections_and_half_handshakes_keep_no_rank_out() {
    let job = job(2);
    let _held = beside(&job, || {
        let strangers: Vec<_> = (0..100).map(|_| knock(&job)).collect();
        for stranger in &strangers[50..] {
            let _ = (&mut &*stranger).write_all(&opening());
        }
        strangers
    });
}

#[test]
fn a_stranger_that_knows_everything_but_the_token_learns_nothing_and_joins_nothing() {
    let job = secretive();
    beside(&job, || {
        let mut stranger = knock(&job);
        stranger.write_all(&opening()).unwrap();
        stranger.write_all(&[&1u32.to_le_bytes()[..], &[0; 4], &[9; 32]].concat()).unwrap();
        let heard = all_from(&mut stranger);
        assert_eq!((heard.len(), heard.last()), (41, Some(&0)), "an opening and a refusal");

        // Nothing is said to HTTP/2 without a handshake.
        let mut stranger = knock(&job);
        stranger.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
        assert_eq!(all_from(&mut stranger), b"");
    });
}

#[test]
fn a_stranger_that_sends_and_sends_is_not_read() {
    let job = job(2);
    beside(&job, || {
        let mut stranger = knock(&job);
        let sent = (0..64).take_while(|_| stranger.write_all(&[0xff; 1 << 20]).is_ok()).count();
        assert!(sent < 64, "64 MiB were taken from a stranger");
    });
}

#[test]
fn a_recorded_handshake_is_worth_nothing_later() {
    let job = secretive();
    let relay = Relay::start(port(&job), |_| false);
    let one = Bootstrap { rank: 1, ..with(&job, "port", relay.port) };
    open_all(&[job.clone(), one], &config(), |communicator| done(communicator.unwrap().barrier()));
    let [dialler, _] = relay.recording(0);

    beside(&job, || {
        let mut stranger = knock(&job);
        let _ = stranger.write_all(&dialler[..HANDSHAKE]);
        let heard = all_from(&mut stranger);
        assert_eq!((heard.len(), heard.last()), (41, Some(&0)));
    });
}

#[test]
fn the_token_and_the_configuration_are_not_sent_to_a_process_that_only_listens() {
    let job = secretive();
    let listener = TcpListener::bind(place(&job)).unwrap();
    let pretender = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut heard = vec![0; HANDSHAKE];
        stream.read_exact(&mut heard[..40]).unwrap();
        stream.write_all(&heard[..40]).unwrap();
        stream.read_exact(&mut heard[40..]).unwrap();
        // The dialler's own proof, sent back to it.
        stream.write_all(&[&[1], &heard[48..]].concat()).unwrap();
        (heard, all_from(&mut stream))
    });
    let limits = Config { connect_timeout_s: 5.0, ..config() };
    let error = backend(limits).unwrap().open(&Bootstrap { rank: 1, ..job.clone() }).err().unwrap();
    let expected = format!("rank 1 and rank 0 at 127.0.0.1:{} do not have the same job token", port(&job));
    assert_eq!(blame(&error), (expected, Some(0)));
    let (heard, more) = pretender.join().unwrap();
    assert!(!heard.windows(TOKEN.len()).any(|bytes| bytes == TOKEN.as_bytes()));
    assert_eq!(more, b"");
}

#[test]
fn the_token_is_never_on_the_wire() {
    let job = job(2);
    let relay = Relay::start(port(&job), |_| false);
    let one = Bootstrap { rank: 1, ..with(&job, "port", relay.port) };
    open_all(&[job, one], &config(), |communicator| done(communicator.unwrap().barrier()));
    let raw: Vec<u8> = (0..32).map(|i| u8::from_str_radix(&TOKEN[2 * i..2 * i + 2], 16).unwrap()).collect();
    for (side, least) in relay.recording(0).iter().zip([HANDSHAKE, ANSWER]) {
        assert!(side.len() > least);
        for secret in [TOKEN.as_bytes(), &raw] {
            assert!(!side.windows(secret.len()).any(|bytes| bytes == secret));
        }
    }
}

#[test]
fn a_rank_with_another_token_is_turned_away_alone_and_both_sides_say_why() {
    let job = job(2);
    let other = Config { token_file: Some(token_file("other", &"f".repeat(64), 0o600)), ..config() };
    let host = Arc::<Host>::default();
    thread::scope(|scope| {
        let (own, kept) = (job.clone(), Arc::clone(&host));
        let first = scope.spawn(move || done(backend_of(kept, config()).unwrap().open(&own).unwrap().barrier()));
        let begin = Instant::now();
        let error = backend(other).unwrap().open(&Bootstrap { rank: 1, ..job.clone() }).err().unwrap();
        assert!(begin.elapsed() < Duration::from_secs(5));
        assert!(error.message().ends_with("do not have the same job token"), "{error}");
        assert!(error.context().iter().any(|(key, advice)| key == "help" && advice.contains("MDT_JOB_TOKEN")));
        let one = Bootstrap { rank: 1, ..job.clone() };
        assert!(done(backend(config()).unwrap().open(&one).unwrap().barrier()).is_empty());
        assert!(first.join().unwrap().is_empty());
    });
    let warnings = host.warnings.lock().unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("says it is rank 1 was turned away"), "{warnings:?}");
}

#[test]
fn a_rank_of_another_version_is_told_so() {
    let job = job(2);
    beside(&job, || {
        let mut stranger = knock(&job);
        stranger.write_all(&[b"mdtrank\x63".as_slice(), &[7; 32]].concat()).unwrap();
        let heard = all_from(&mut stranger);
        assert_eq!((heard.len(), &heard[..8]), (40, b"mdtrank\x05".as_slice()));
    });
}
