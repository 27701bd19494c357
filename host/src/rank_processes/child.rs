//! One rank as a child process: itself, or the `ssh` that leads to it.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{self, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde::Serialize;

use super::order::{Message, Order, SIGNALLED, STOPPED};
use super::outcome::{self, End};
use super::output::RankOutput;
use super::{Rank, Ssh};
use crate::exit::{Failure, Status};
use crate::launchers::{JOB_ID, JOB_TOKEN};

/// The variable that is set for ranks that `launch` has started: how many of them this machine has.
const LAUNCHED: &str = "MDT_LAUNCHED";

/// The variable that is set for ranks of a job that was started before.
pub const AGAIN: &str = "MDT_LAUNCHED_AGAIN";

/// The status of a launched rank that has done its part. A plugin that ends the process by `_exit(0)` does not give it.
pub const DONE: u8 = 100;

/// The status with which `ssh` says that it has failed itself.
const SSH_FAILED: i32 = 255;

/// How long an `ssh` whose rank was killed may take to end.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Whether `launch` has started this process.
pub fn is_launched() -> bool {
    std::env::var_os(LAUNCHED).is_some()
}

/// Whether `launch` has started this job before.
pub fn is_started_again() -> bool {
    std::env::var_os(AGAIN).is_some()
}

/// How many ranks of its job this machine has, if `launch` has started this process.
pub fn ranks_here() -> Option<u64> {
    std::env::var(LAUNCHED).ok()?.parse().ok()
}

/// What all ranks are started with.
pub(super) struct Start<'a> {
    pub(super) program: &'a Path,
    pub(super) job: &'a str,
    pub(super) token: &'a str,
    pub(super) output: &'a RankOutput,
}

/// A rank that was started.
pub(super) struct Child {
    rank: usize,
    /// The machine that it runs on, if that is another one.
    place: Option<Arc<Ssh>>,
    /// Holds its standard input open: a rank whose input ends knows that this program has ended.
    process: process::Child,
    /// The threads that pass its output on.
    readers: Vec<JoinHandle<()>>,
    pub(super) signalled: bool,
    killed: Option<Instant>,
    stopped: bool,
    /// What became of the way to its machine, if that ended without the rank.
    lost: Option<String>,
    /// Whether the other machine was told that the job is ending.
    told_ending: bool,
    ended: Option<(Instant, ExitStatus)>,
}

impl Child {
    /// Starts a rank. The token goes through the environment here, which other users cannot read as they can arguments, and
    /// through standard input to another machine.
    ///
    /// # Errors
    /// No process can be started.
    pub(super) fn start(rank: usize, how: &Rank, start: &Start<'_>) -> Result<Self, Failure> {
        let failed = |error| Failure::new(Status::Other, format!("rank {rank} cannot be started")).because(error);
        let Some(ssh) = &how.place else {
            let mut command = here(start.program, &how.arguments, (start.job, start.token), how.ranks_there);
            command.envs(how.environment.iter().map(|(name, value)| (name, value)));
            return Self::spawn(rank, command, None, start.output).map_err(failed);
        };
        let order = ssh.order(how, start.job, start.token)?;
        let child = Self::spawn(rank, ssh.start(), Some(Arc::clone(ssh)), start.output);
        let mut child = child.map_err(|error| {
            failed(error).at(ssh.command[0].as_str()).help("name the program that reaches other machines with `--ssh`")
        })?;
        child.say(&order);
        Ok(child)
    }

    /// Starts a rank for the launcher on another machine.
    pub(super) fn of_order(program: &Path, order: Order) -> io::Result<Self> {
        let mut arguments: Vec<OsString> = order.arguments.into_iter().map(OsString::from).collect();
        if order.shares_cores {
            let cores = thread::available_parallelism().map_or(1, usize::from) / order.ranks.max(1) as usize;
            arguments.extend(["--set".into(), format!("compute.threads={}", cores.max(1)).into()]);
        }
        let mut command = here(program, &arguments, (&order.job, &order.token), order.ranks);
        command.envs(order.environment);
        Ok(Self::new(0, command.spawn()?, None))
    }

    fn spawn(rank: usize, mut command: Command, place: Option<Arc<Ssh>>, output: &RankOutput) -> io::Result<Self> {
        command.stdin(Stdio::piped()).process_group(0);
        if !output.has_the_terminal(rank) {
            command.stderr(Stdio::piped());
        }
        // What the first rank prints there is the command's result.
        if rank > 0 {
            command.stdout(Stdio::piped());
        }
        let mut child = Self::new(rank, command.spawn()?, place);
        child.readers = output.follow(rank, child.process.stdout.take(), child.process.stderr.take())?;
        Ok(child)
    }

    fn new(rank: usize, process: process::Child, place: Option<Arc<Ssh>>) -> Self {
        Self {
            rank,
            place,
            process,
            readers: Vec::new(),
            signalled: false,
            killed: None,
            stopped: false,
            lost: None,
            told_ending: false,
            ended: None,
        }
    }

    pub(super) fn is_running(&mut self) -> io::Result<bool> {
        if self.ended.is_none() {
            if self.place.is_some() && self.killed.is_some_and(|since| since.elapsed() > LAST_WORDS) {
                let _ = self.process.kill();
            }
            self.ended = self.process.try_wait()?.map(|status| (Instant::now(), self.status_of_rank(status)));
        }
        Ok(self.ended.is_none())
    }

    /// How a rank ended, by how the process here did.
    fn status_of_rank(&mut self, status: ExitStatus) -> ExitStatus {
        if self.place.is_none() {
            return status;
        }
        match status.code() {
            Some(SSH_FAILED) => {
                self.lost = Some("ssh has failed with status 255, and may have said why above".to_owned())
            }
            None => self.lost = Some(format!("its ssh was ended by {}", outcome::name_of_signal(status))),
            Some(_) => {}
        }
        match status.code() {
            Some(STOPPED) => {
                (self.stopped, self.signalled) = (true, true);
                ExitStatus::from_raw(Signal::KILL.as_raw())
            }
            Some(code) if code > SIGNALLED && code < SSH_FAILED && code != i32::from(Status::Interrupted.code()) => {
                ExitStatus::from_raw(code - SIGNALLED)
            }
            _ => status,
        }
    }

    /// Whether the job is over, or soon will be: this rank has failed, or it is the first one and has ended.
    pub(super) fn ends_the_job(&self) -> bool {
        // A rank that is done, or was interrupted, leaves the first one to write its files.
        let failed = |status: ExitStatus| status.code() != Some(i32::from(DONE)) && status.code() != Some(130);
        self.ended.is_some_and(|(_, status)| self.rank == 0 || failed(status))
    }

    /// Kills it if it is stopped, as by SIGSTOP.
    pub(super) fn kill_if_stopped(&mut self) {
        if self.place.is_some() && !self.told_ending {
            self.told_ending = true;
            self.say(&Message::Ending);
        }
        let ask = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let state = || waitid(WaitId::Pid(Pid::from_child(&self.process)), ask);
        if self.ended.is_none() && matches!(state(), Ok(Some(_))) {
            self.stopped = true;
            self.signalled = true;
            // It was not waited for, so the number is its own.
            let _ = kill_process(Pid::from_child(&self.process), Signal::KILL);
        }
    }

    pub(super) fn signal(&mut self, signal: Signal) {
        if self.ended.is_some() {
            return;
        }
        self.signalled = true;
        if signal == Signal::KILL {
            self.killed.get_or_insert_with(Instant::now);
        }
        match self.place {
            Some(_) => self.say(&Message::Signal(signal.as_raw())),
            // It was not waited for, so the number is its own; it may have ended.
            None => drop(kill_process(Pid::from_child(&self.process), signal)),
        }
    }

    /// Tells it which rank has failed.
    pub(super) fn tell(&mut self, failed: &str) {
        match self.place {
            Some(_) => self.say(&Message::Tell(failed.to_owned())),
            None => self.write(failed),
        }
    }

    /// Tells a rank on another machine that the launcher is there.
    pub(super) fn beat(&mut self) {
        if self.place.is_some() {
            self.say(&Message::Alive);
        }
    }

    fn say(&mut self, what: &impl Serialize) {
        if let Ok(line) = serde_json::to_string(what) {
            self.write(&line);
        }
    }

    /// Sends a line to its standard input.
    fn write(&mut self, line: &str) {
        if self.ended.is_none()
            && let Some(stdin) = &mut self.process.stdin
        {
            let _ = stdin.write_all(format!("{line}\n").as_bytes()); // it may have ended
        }
    }

    /// How it ended, if it has.
    pub(super) fn end(&self) -> Option<End> {
        let &Self { rank, signalled, stopped, .. } = self;
        self.ended.map(|(when, how)| {
            let (host, lost) = (self.place.as_ref().map(|ssh| ssh.host.clone()), self.lost.clone());
            End { rank, host, when, how, signalled, stopped, lost }
        })
    }

    /// The threads that pass its output on, for waiting.
    pub(super) fn readers(&mut self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut self.readers)
    }

    pub(super) fn reap(&mut self) {
        // This process is ending: an error here changes nothing.
        while self.place.is_some() && self.is_running().unwrap_or(false) {
            thread::sleep(super::TICK);
        }
        if self.ended.is_none() {
            let _ = self.process.wait();
        }
    }
}

/// This program as a rank on this machine, in a process group of its own: Ctrl-C reaches the launcher only, which passes it
/// on once.
fn here(program: &Path, arguments: &[OsString], (job, token): (&str, &str), ranks: u32) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).env(LAUNCHED, ranks.to_string()).env(JOB_ID, job).env(JOB_TOKEN, token);
    command.stdin(Stdio::piped()).process_group(0);
    command
}
