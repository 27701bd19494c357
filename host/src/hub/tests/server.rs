//! A server that plays the hub, with its faults.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;

/// What a client asked.
#[derive(Clone)]
pub(super) struct Ask {
    pub(super) method: String,
    pub(super) path: String,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) port: u16,
}

impl Ask {
    pub(super) fn header(&self, name: &str) -> Option<String> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }
}

/// What it is answered.
pub(super) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// So many bytes of the body are sent before the connection breaks.
    cut: Option<usize>,
    /// So many bytes are sent at a time, with pauses.
    slow: Option<usize>,
    /// Nothing of the body is sent, and the connection stays.
    silent: bool,
}

impl Reply {
    pub(super) fn of(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), cut: None, slow: None, silent: false }
    }

    pub(super) fn json(value: Value) -> Self {
        Self::of(200).bytes(value.to_string().as_bytes())
    }

    pub(super) fn bytes(self, bytes: &[u8]) -> Self {
        Self { body: bytes.to_vec(), ..self }
    }

    /// These bytes, or the range of them that was asked for.
    pub(super) fn body(ask: &Ask, bytes: &[u8]) -> Self {
        let range = ask.header("range");
        let start =
            range.as_ref().and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        match start {
            None => Self::of(200).bytes(bytes),
            Some(start) => Self::of(206)
                .header("content-range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len()))
                .bytes(&bytes[start..]),
        }
    }

    pub(super) fn header(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub(super) fn cut(self, after: usize) -> Self {
        Self { cut: Some(after), ..self }
    }

    pub(super) fn slow(self, at_a_time: usize) -> Self {
        Self { slow: Some(at_a_time), ..self }
    }

    pub(super) fn silent(self) -> Self {
        Self { silent: true, ..self }
    }

    fn write(&self, ask: &Ask, stream: &mut TcpStream) -> std::io::Result<()> {
        let headers: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = self.body.len();
        write!(stream, "HTTP/1.1 {} X\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n", self.status)?;
        if ask.method == "HEAD" {
            return Ok(());
        }
        if self.silent {
            thread::sleep(Duration::from_secs(20));
            return Ok(());
        }
        let body = &self.body[..self.cut.unwrap_or(length).min(length)];
        for block in body.chunks(self.slow.unwrap_or(usize::MAX)) {
            stream.write_all(block)?;
            if self.slow.is_some() {
                stream.flush()?;
                thread::sleep(Duration::from_millis(100));
            }
        }
        stream.flush()
    }
}

/// A server on this machine.
pub(super) struct Server {
    pub(super) address: String,
    asked: Arc<Mutex<Vec<Ask>>>,
}

impl Server {
    pub(super) fn start(answer: impl Fn(&Ask) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(answer));
        let notes = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (notes, answer) = (Arc::clone(&notes), Arc::clone(&answer));
                thread::spawn(move || {
                    let mut stream = stream;
                    let Some(ask) = read(&stream, port) else { return };
                    notes.lock().unwrap().push(ask.clone());
                    let _ = answer(&ask).write(&ask, &mut stream);
                });
            }
        });
        Self { address: format!("http://127.0.0.1:{port}"), asked }
    }

    /// What was asked so far.
    pub(super) fn asked(&self) -> Vec<Ask> {
        self.asked.lock().unwrap().clone()
    }
}

fn read(stream: &TcpStream, port: u16) -> Option<Ask> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.push((name.to_lowercase(), value.to_owned()));
    }
    let mut ask = Ask { method, path, headers, body: Vec::new(), port };
    let length = ask.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    ask.body = vec![0; length];
    if ask.header("expect").is_some() {
        (&*stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    reader.read_exact(&mut ask.body).ok()?;
    Some(ask)
}
