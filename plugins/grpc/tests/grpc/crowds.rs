//! Very many connections of strangers: they take a bounded part of memory, and keep no rank out.

use std::collections::VecDeque;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use mdt_grpc::Config;

use crate::authority::Authority;
use crate::processes::{Rank, Role::Reduces};
use crate::setup::{LONG, config, job, place};

/// Connections of each stranger that stay open: together more than there are places.
const HELD: usize = 100;

/// What strangers say, by turns: nothing, something, nearly the right thing.
fn say(stream: &mut TcpStream, turn: usize) {
    let noise: Vec<u8> = (0..4096).map(|index| (index * 31 + turn * 17) as u8).collect();
    let hello = [b"mdtrank\x05".as_slice(), &[7; 32]].concat();
    let message: &[u8] = match turn % 8 {
        0 => b"",
        1 => b"GET / HTTP/1.1\r\n\r\n",
        2 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        3 => &hello,
        4 => &hello[..turn % hello.len()],
        5 => &noise[..turn % noise.len()],
        // The beginning of a handshake of TLS, with a length that never comes.
        6 => b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03",
        _ => b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
    };
    let _ = stream.write_all(message); // it may have been closed
    if turn.is_multiple_of(3) {
        let _ = stream.shutdown(Shutdown::Write);
    }
}

struct Crowd {
    connections: usize,
    rank_1_came_after: Duration,
    /// Memory that rank 0 has taken meanwhile.
    kib: Option<usize>,
}

/// Starts a job, of which rank 1 comes in the middle of so many connections of strangers.
fn crowd(config: &Config, count: usize) -> Crowd {
    let job = job(2);
    let mut zero = Rank::with(&job, 0, Reduces, config);
    let begin = Instant::now();
    while TcpStream::connect(place(&job)).is_err() {
        assert!(begin.elapsed() < LONG);
    }
    let before = zero.resident_kib();
    let (made, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for stranger in 0..4 {
            let (job, made, over) = (&job, &made, &over);
            scope.spawn(move || {
                let mut held = VecDeque::new();
                while !over.load(Relaxed) {
                    let Ok(mut stream) = TcpStream::connect(place(job)) else { continue };
                    say(&mut stream, made.fetch_add(1, Relaxed) + stranger);
                    held.push_back(stream);
                    if held.len() > HELD {
                        held.pop_front();
                    }
                }
            });
        }
        while made.load(Relaxed) < count {
            thread::sleep(Duration::from_millis(1));
        }
        let kib = zero.resident_kib().zip(before).map(|(now, before)| now.saturating_sub(before));
        let begin = Instant::now();
        let mut one = Rank::with(&job, 1, Reduces, config);
        let said = [one.says(), zero.says()];
        let rank_1_came_after = begin.elapsed();
        over.store(true, Relaxed);
        assert_eq!(said, ["connected"; 2]);
        assert!(zero.runs() && one.runs());
        Crowd { connections: made.load(Relaxed), rank_1_came_after, kib }
    })
}

fn with_tls() -> Config {
    Config { tls: Some(Authority::new("crowd").host("all", &["127.0.0.1"])), ..config() }
}

#[test]
fn hundreds_of_strangers_keep_no_rank_out_and_take_little_memory() {
    for config in [config(), with_tls()] {
        let Crowd { rank_1_came_after, kib, .. } = crowd(&config, 400);
        assert!(rank_1_came_after < LONG, "{rank_1_came_after:?}");
        assert!(kib.is_none_or(|kib| kib < 64 << 10), "{kib:?} KiB");
    }
}

#[test]
#[ignore = "for figures, by hand: `cargo test --release --workspace --test grpc -- --ignored --nocapture ten_thousand`"]
fn ten_thousand_strangers() {
    for (name, config) in [("token", config()), ("TLS and token", with_tls())] {
        let begin = Instant::now();
        let Crowd { connections, rank_1_came_after, kib } = crowd(&config, 10_000);
        println!(
            "{name}: {connections} connections of strangers in {:?}; rank 1 came in {rank_1_came_after:?}; memory of rank 0 + \
             {kib:?} KiB",
            begin.elapsed()
        );
    }
}
