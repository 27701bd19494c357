//! A relay between two ranks that sees what they send, and can cut the first connection.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Bytes that a dialler sends in a handshake, and that a listener does.
pub const HANDSHAKE: usize = 40 + 40;
pub const ANSWER: usize = 40 + 33;

/// A relay to one port of this machine, which works until the test ends.
pub struct Relay {
    pub port: u16,
    connections: Arc<Mutex<Vec<Recording>>>,
}

/// What both sides of a connection have sent, the dialler first.
pub type Recording = [Vec<u8>; 2];

impl Relay {
    /// A relay that cuts its first connection once `cut` says so of what the dialler has sent.
    pub fn start(target: u16, cut: fn(&[u8]) -> bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Self { port: listener.local_addr().unwrap().port(), connections: Arc::default() };
        let connections = Arc::clone(&relay.connections);
        thread::spawn(move || {
            while let Ok((dialler, _)) = listener.accept() {
                let Ok(listener) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                let index = connections.lock().unwrap().len();
                connections.lock().unwrap().push(Recording::default());
                for (side, mut from, mut to) in [
                    (0, dialler.try_clone().unwrap(), listener.try_clone().unwrap()),
                    (1, listener.try_clone().unwrap(), dialler.try_clone().unwrap()),
                ] {
                    let connections = Arc::clone(&connections);
                    thread::spawn(move || {
                        let mut bytes = [0; 65536];
                        while let Ok(count @ 1..) = from.read(&mut bytes) {
                            let is_cut = {
                                let recording = &mut connections.lock().unwrap()[index];
                                recording[side].extend_from_slice(&bytes[..count]);
                                index == 0 && cut(&recording[0])
                            };
                            if is_cut && side == 1 {
                                break; // the answer is lost
                            }
                            if to.write_all(&bytes[..count]).is_err() {
                                break;
                            }
                            if is_cut {
                                thread::sleep(Duration::from_millis(200)); // the listener has read it
                                break;
                            }
                        }
                        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                    });
                }
            }
        });
        relay
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.connections.lock().unwrap().len()
    }

    /// What was sent over one of them.
    pub fn recording(&self, index: usize) -> Recording {
        self.connections.lock().unwrap()[index].clone()
    }
}
