//! One rank as a child process.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{self, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use super::outcome::End;
use super::output::RankOutput;
use crate::launchers::{JOB_ID, JOB_TOKEN};

/// The variable that is set for ranks that `launch` has started.
pub const LAUNCHED: &str = "MDT_LAUNCHED";

/// The status of a launched rank that has done its part. A plugin that ends the process by `_exit(0)` does not give it.
pub const DONE: u8 = 100;

/// A rank that was started.
pub(super) struct Child {
    rank: usize,
    /// Holds its standard input open: a rank whose input ends knows that this program has ended.
    process: process::Child,
    /// The threads that pass its output on.
    readers: Vec<JoinHandle<()>>,
    pub(super) signalled: bool,
    stopped: bool,
    ended: Option<(Instant, ExitStatus)>,
}

impl Child {
    /// Starts a rank. The token goes through the environment, which other users cannot read as they can arguments.
    pub(super) fn start(
        program: &Path,
        arguments: &[OsString],
        rank: usize,
        (job, token): (&str, &str),
        output: &RankOutput,
    ) -> io::Result<Self> {
        let mut command = Command::new(program);
        // Its own process group: Ctrl-C reaches this program only, which passes it on once.
        command.args(arguments).env(LAUNCHED, "1").env(JOB_ID, job).env(JOB_TOKEN, token);
        command.stdin(Stdio::piped()).process_group(0);
        if !output.has_the_terminal(rank) {
            command.stderr(Stdio::piped());
        }
        // What the first rank prints there is the command's result.
        if rank > 0 {
            command.stdout(Stdio::piped());
        }
        let mut process = command.spawn()?;
        let readers = output.follow(rank, process.stdout.take(), process.stderr.take())?;
        Ok(Self { rank, process, readers, signalled: false, stopped: false, ended: None })
    }

    pub(super) fn is_running(&mut self) -> io::Result<bool> {
        if self.ended.is_none() {
            self.ended = self.process.try_wait()?.map(|status| (Instant::now(), status));
        }
        Ok(self.ended.is_none())
    }

    /// Whether the job is over, or soon will be: this rank has failed, or it is the first one and has ended.
    pub(super) fn ends_the_job(&self) -> bool {
        // A rank that is done, or was interrupted, leaves the first one to write its files.
        let failed = |status: ExitStatus| status.code() != Some(i32::from(DONE)) && status.code() != Some(130);
        self.ended.is_some_and(|(_, status)| self.rank == 0 || failed(status))
    }

    /// Kills it if it is stopped, as by SIGSTOP.
    pub(super) fn kill_if_stopped(&mut self) {
        let ask = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let state = || waitid(WaitId::Pid(Pid::from_child(&self.process)), ask);
        if self.ended.is_none() && matches!(state(), Ok(Some(_))) {
            self.stopped = true;
            self.signal(Signal::KILL);
        }
    }

    pub(super) fn signal(&mut self, signal: Signal) {
        if self.ended.is_none() {
            self.signalled = true;
            // It was not waited for, so the number is its own; it may have ended.
            let _ = kill_process(Pid::from_child(&self.process), signal);
        }
    }

    /// Sends a line to its standard input.
    pub(super) fn tell(&mut self, line: &str) {
        if self.ended.is_none()
            && let Some(stdin) = &mut self.process.stdin
        {
            let _ = stdin.write_all(format!("{line}\n").as_bytes()); // it may have ended
        }
    }

    /// How it ended, if it has.
    pub(super) fn end(&self) -> Option<End> {
        let &Self { rank, signalled, stopped, .. } = self;
        self.ended.map(|(when, how)| End { rank, when, how, signalled, stopped })
    }

    /// The threads that pass its output on, for waiting.
    pub(super) fn readers(&mut self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut self.readers)
    }

    pub(super) fn reap(&mut self) {
        if self.ended.is_none() {
            let _ = self.process.wait(); // this process is ending: an error here changes nothing
        }
    }
}
