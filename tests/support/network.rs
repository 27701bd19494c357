//! A relay between two processes: a network that is slow, damages data, or is cut.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread;
use std::time::Duration;

/// A port below those that the system gives out by itself, so that no other process takes it meanwhile.
pub fn free_port() -> u16 {
    free_ports(1)
}

/// The first of so many ports in a row. No other test of this process is given any of them.
pub fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() * 61 % 20_000) as u16;
    loop {
        let port = first + NEXT.fetch_add(count, Ordering::Relaxed);
        if (port..port + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return port;
        }
    }
}

/// Bytes that are passed on at once.
const PIECE: usize = 4 << 10;

/// How a relay treats what it passes on.
#[derive(Clone, Copy, Default)]
pub struct Network {
    /// In each direction; as fast as possible where there is none.
    pub bytes_per_second: Option<u32>,
    /// A byte on the way to the process that listens, counted from 0 on each connection, in which a bit is flipped.
    pub damaged_byte: Option<usize>,
}

/// A relay. It works until the test ends.
pub struct Relay {
    /// Where it listens, on the loopback interface.
    pub port: u16,
    is_cut: Arc<AtomicBool>,
}

impl Relay {
    /// Passes on what comes to it to the process that listens at `target`.
    pub fn start(target: u16, network: Network) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("a port").port();
        let is_cut = Arc::<AtomicBool>::default();
        let relay = Relay { port, is_cut: Arc::clone(&is_cut) };
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                // Where nobody listens yet, the connection ends at once.
                let Ok(far) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                let there = (near.try_clone().expect("a second handle"), far.try_clone().expect("a second handle"));
                for ((from, to), network) in
                    [(there, network), ((far, near), Network { damaged_byte: None, ..network })]
                {
                    let is_cut = Arc::clone(&is_cut);
                    thread::spawn(move || pass_on(from, to, network, &is_cut));
                }
            }
        });
        relay
    }

    /// Passes nothing on any more, and leaves all connections open.
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, network: Network, is_cut: &AtomicBool) {
    let _ = to.set_nodelay(true);
    let (mut buffer, mut passed) = ([0; PIECE], 0);
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        while is_cut.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(10));
        }
        if let Some(damaged) = network.damaged_byte.and_then(|byte| buffer[..count].get_mut(byte.wrapping_sub(passed)))
        {
            *damaged ^= 0x10;
        }
        passed += count;
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
        if let Some(rate) = network.bytes_per_second {
            thread::sleep(Duration::from_secs_f64(count as f64 / f64::from(rate)));
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
