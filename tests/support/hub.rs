//! A server on this machine that plays the Hugging Face Hub for one data set, `org/rows`.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;
use sha2::{Digest, Sha256};

/// A data set on a hub.
pub struct Hub {
    /// Where it is, for `HF_ENDPOINT`.
    pub address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Hub {
    /// A hub with these files, by their paths, at this commit.
    pub fn start(commit: &str, files: &[(&str, Vec<u8>)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (commit, notes) = (commit.to_owned(), Arc::clone(&asked));
        let files: Vec<_> = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())).collect();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away is no fault of the hub.
                let _ = answer(&stream, &commit, &files, &notes);
            }
        });
        Self { address, asked }
    }

    /// How often the content of a file was asked for.
    pub fn downloads(&self, file: &str) -> usize {
        let asked = self.asked.lock().expect("no thread has panicked");
        asked.iter().filter(|request| request.starts_with("GET ") && request.ends_with(file)).count()
    }
}

fn answer(
    mut stream: &TcpStream,
    commit: &str,
    files: &[(String, Vec<u8>)],
    notes: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let request = first.trim_end_matches(" HTTP/1.1").to_owned();
    notes.lock().expect("no thread has panicked").push(request.clone());
    let (method, path) = request.split_once(' ').unwrap_or_default();
    let file = path.strip_prefix(&format!("/datasets/org/rows/resolve/{commit}/"));
    let (status, headers, body) = if path.starts_with("/api/datasets/org/rows/revision/") {
        let siblings: Vec<_> = files.iter().map(|(name, _)| json!({ "rfilename": name })).collect();
        (200, String::new(), json!({ "sha": commit, "siblings": siblings }).to_string().into_bytes())
    } else if let Some((_, bytes)) = file.and_then(|file| files.iter().find(|(name, _)| name == file)) {
        let etag: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        (200, format!("etag: \"{etag}\"\r\n"), bytes.clone())
    } else {
        (404, "x-error-code: RepoNotFound\r\n".to_owned(), Vec::new())
    };
    write!(stream, "HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n", body.len())?;
    if method == "GET" { stream.write_all(&body) } else { Ok(()) }
}
