//! One rank as a child process.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{self, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Instant;

use super::output::RankOutput;
use crate::exit::Status;

/// The variable by which a rank knows that it was launched, so that the first one speaks for it.
pub const LAUNCHED: &str = "MDT_LAUNCHED";

/// The variable with the secret by which the ranks of a job know each other. A backend may need it.
const JOB_TOKEN: &str = "MDT_JOB_TOKEN";

/// A rank that was started.
pub(super) struct Child {
    rank: usize,
    process: process::Child,
    /// The threads that pass its output on.
    readers: Vec<JoinHandle<()>>,
    /// Whether this program has sent it a signal.
    signalled: bool,
    ended: Option<(Instant, Ended)>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// By itself, with this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Child {
    /// Starts a rank. The token goes through the environment, which other users cannot read as they can arguments.
    pub(super) fn start(
        program: &Path,
        arguments: &[OsString],
        rank: usize,
        token: &str,
        view: &RankOutput,
    ) -> io::Result<Self> {
        let mut command = Command::new(program);
        // Its own process group: Ctrl-C reaches this program only, which passes it on once.
        command.args(arguments).env(LAUNCHED, "1").env(JOB_TOKEN, token).stdin(Stdio::null()).process_group(0);
        if view.has_the_terminal(rank) {
            command.stdout(Stdio::inherit()).stderr(Stdio::inherit());
        } else {
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
        }
        end_with_this_program(&mut command);
        let mut process = command.spawn()?;
        let readers = view.follow(rank, process.stdout.take(), process.stderr.take())?;
        Ok(Self { rank, process, readers, signalled: false, ended: None })
    }

    pub(super) fn is_running(&mut self) -> io::Result<bool> {
        if self.ended.is_none() {
            self.ended = self.process.try_wait()?.map(|status| (Instant::now(), ended(status)));
        }
        Ok(self.ended.is_none())
    }

    /// Whether it has ended in a way that the others will not survive.
    pub(super) fn has_failed(&self) -> bool {
        self.ended.is_some_and(|(_, ended)| ended.failed())
    }

    pub(super) fn was_signalled(&self) -> bool {
        self.signalled
    }

    pub(super) fn signal(&mut self, signal: i32) {
        if self.ended.is_none() {
            self.signalled = true;
            // SAFETY: plain system call; the process has not been waited for, so its number is still its own.
            unsafe { libc::kill(self.process.id() as libc::pid_t, signal) };
        }
    }

    /// Its rank and the signal, where it was killed by one that this program did not send.
    pub(super) fn killed_by_others(&self) -> Option<(usize, i32)> {
        match self.ended {
            Some((_, Ended::Signal(signal))) if !self.signalled => Some((self.rank, signal)),
            _ => None,
        }
    }

    /// When it failed by itself, its rank, and with which status.
    pub(super) fn failure(&self) -> Option<(Instant, usize, Status)> {
        match self.ended {
            Some((when, Ended::Code(code))) if code != 0 => Some((when, self.rank, Status::of_code(code))),
            Some((when, Ended::Signal(_))) => Some((when, self.rank, Status::Peer)),
            _ => None,
        }
    }

    /// The threads that pass its output on, for waiting.
    pub(super) fn readers(&mut self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut self.readers)
    }

    pub(super) fn reap(&mut self) {
        if self.ended.is_none() {
            // Nobody is left to be told that it cannot be waited for.
            let _ = self.process.wait();
        }
    }
}

fn ended(status: ExitStatus) -> Ended {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Code(code),
        (None, signal) => Ended::Signal(signal.unwrap_or(0)),
    }
}

/// Asks the system to stop the child when this program is killed and cannot do it.
#[cfg(target_os = "linux")]
fn end_with_this_program(command: &mut Command) {
    // SAFETY: the closure runs between fork and exec and makes one system call, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}

/// Other systems have no such request: there the ranks find out by losing each other, or run to their end.
#[cfg(not(target_os = "linux"))]
fn end_with_this_program(_: &mut Command) {}
