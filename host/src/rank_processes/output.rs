//! The output of all ranks as one: the first rank's as it is on a terminal, every other line with its rank.

use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::process::{ChildStderr, ChildStdout};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::terminal::printable;

/// How long output that a rank's own children still hold open is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where the ranks' output goes.
pub(super) struct RankOutput {
    terminal: bool,
}

impl RankOutput {
    pub(super) fn new() -> Self {
        Self { terminal: io::stderr().is_terminal() }
    }

    /// Whether this rank writes to the terminal itself, which its progress bar needs.
    pub(super) fn has_the_terminal(&self, rank: usize) -> bool {
        self.terminal && rank == 0
    }

    /// Passes a rank's output on, line by line, until it ends.
    pub(super) fn follow(
        &self,
        rank: usize,
        stdout: Option<ChildStdout>,
        stderr: Option<ChildStderr>,
    ) -> io::Result<Vec<JoinHandle<()>>> {
        // A bar may stand on the terminal's last line.
        let begin = if self.terminal { "\r\x1b[2K" } else { "" };
        let mut readers = Vec::new();
        if let Some(stdout) = stdout {
            readers.push(spawn(rank, stdout, "", |line| io::stdout().lock().write_all(line))?);
        }
        if let Some(stderr) = stderr {
            readers.push(spawn(rank, stderr, begin, |line| io::stderr().lock().write_all(line))?);
        }
        Ok(readers)
    }

    /// Waits until the last lines are out.
    pub(super) fn finish(&self, readers: impl Iterator<Item = JoinHandle<()>>) {
        let begin = Instant::now();
        for reader in readers {
            while !reader.is_finished() && begin.elapsed() < PATIENCE {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

fn spawn(
    rank: usize,
    source: impl Read + Send + 'static,
    begin: &'static str,
    write: impl Fn(&[u8]) -> io::Result<()> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(format!("rank-{rank}")).spawn(move || {
        let mut source = BufReader::new(source);
        let mut line = Vec::new();
        while source.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            // One write for each line, so that lines of several ranks do not mix. The job goes on without its output
            // when that is closed.
            let _ = write(&labelled(rank, begin, &line));
            line.clear();
        }
    })
}

/// `[rank 1] text`, with a line break at its end.
fn labelled(rank: usize, begin: &str, line: &[u8]) -> Vec<u8> {
    let line = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(line));
    format!("{begin}[rank {rank}] {}\n", printable(&line)).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_its_rank_and_an_end() {
        assert_eq!(labelled(1, "", b"step 3\n"), b"[rank 1] step 3\n");
        assert_eq!(labelled(12, "", b"torn"), b"[rank 12] torn\n");
        assert_eq!(labelled(0, "", b"\x1b[2J\xff\n"), "[rank 0] \\u001b[2J\u{fffd}\n".as_bytes());
    }
}
