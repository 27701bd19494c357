//! The ranks of a job as child processes of this one: started, watched, stopped together.

mod child;
mod outcome;
mod output;

use std::ffi::OsString;
use std::io::{self, BufRead};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, getpid, kill_process};
use signal_hook::iterator::Signals;

use crate::checksum;
use crate::exit::{Failure, Status};
use crate::signals::{SAME_REQUEST, stop_signals};
use child::Child;
pub use child::{DONE, LAUNCHED};
use output::RankOutput;

/// How long the other ranks may go on after one has failed or the first rank has ended: longer than it takes them to
/// notice it and to print their own error.
const GRACE: Duration = Duration::from_secs(5);
/// How long a rank may take to end after SIGTERM: it may be in a long update, or saving.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time between two looks at the children.
const TICK: Duration = Duration::from_millis(10);

/// Runs this program once per rank, each with its own arguments, until all have ended.
///
/// The first SIGINT, SIGTERM or SIGHUP is passed on as SIGTERM, so that all ranks write their checkpoint and stop. A
/// second one kills them; repeats within a second count as one.
///
/// # Errors
/// A rank cannot be started; a rank was killed ([`Status::Peer`]) or failed (its own status), named; the job was
/// interrupted.
pub fn run(arguments: impl Iterator<Item = Vec<OsString>>) -> Result<(), Failure> {
    let failed = |what: &str, error: io::Error| Failure::new(Status::Other, what.to_owned()).because(error);
    let program = std::env::current_exe().map_err(|error| failed("this program's file cannot be found", error))?;
    let mut signals = Signals::new(stop_signals()).map_err(|error| failed("signals cannot be handled", error))?;
    let mut random = [0; 40];
    getrandom::fill(&mut random).map_err(|error| failed("no job token can be made", io::Error::other(error)))?;
    let (job, token) = random.split_at(8);
    let (job, token) = (checksum::hexadecimal(job), checksum::hexadecimal(token));
    let output = RankOutput::new();
    let mut ranks = Ranks::default();
    for (rank, arguments) in arguments.enumerate() {
        let child = Child::start(&program, &arguments, rank, (&job, &token), &output)
            .map_err(|error| failed(&format!("rank {rank} cannot be started"), error))?;
        ranks.0.push(child);
    }

    let mut interrupted: Option<Instant> = None;
    let mut killed = false;
    let mut ending: Option<Instant> = None;
    while ranks.are_running()? {
        if signals.pending().count() > 0 {
            match interrupted {
                None => ranks.signal(Signal::TERM),
                Some(first) if first.elapsed() < SAME_REQUEST => {}
                Some(_) => {
                    killed = true;
                    ranks.signal(Signal::KILL);
                }
            }
            interrupted.get_or_insert_with(Instant::now);
        }
        if ending.is_none()
            && let Some(first) = ranks.0.iter().find(|child| child.ends_the_job())
        {
            ending = Some(Instant::now());
            if let Some(failed) = first.end().as_ref().and_then(outcome::failed) {
                ranks.0.iter_mut().for_each(|child| child.tell(&failed));
            }
        }
        if let Some(passed) = ending.map(|since| since.elapsed()) {
            // A stopped process cannot notice anything, and does not end by itself.
            ranks.0.iter_mut().for_each(Child::kill_if_stopped);
            if passed > GRACE + PATIENCE {
                ranks.signal(Signal::KILL);
            } else if passed > GRACE {
                ranks.0.iter_mut().filter(|child| !child.signalled).for_each(|child| child.signal(Signal::TERM));
            }
        }
        thread::sleep(TICK);
    }
    output.finish(ranks.0.iter_mut().flat_map(Child::readers));
    let ends: Vec<_> = ranks.0.iter().filter_map(Child::end).collect();
    outcome::of(&ends, killed)
}

/// Whether `launch` has started this process.
pub fn is_launched() -> bool {
    std::env::var_os(LAUNCHED).is_some()
}

/// In a rank that `launch` has started: stops it, as SIGTERM does, when the launching process ends without a word. That
/// process holds the other end of standard input for as long as it lives.
pub fn stop_with_the_launcher() {
    thread::spawn(|| {
        for line in io::stdin().lock().lines().map_while(io::Result::ok) {
            let _ = TOLD.set(line); // the first rank that failed
        }
        let _ = kill_process(getpid(), Signal::TERM);
    });
}

/// What `launch` has told this rank, as the other ranks cannot: which one failed, and how.
static TOLD: OnceLock<String> = OnceLock::new();

/// Which rank has failed, where `launch` has said so: `rank 1 was killed by SIGKILL`.
pub fn failed_rank() -> Option<&'static str> {
    TOLD.get().map(String::as_str)
}

/// The children. However this process returns, none of them stays behind.
#[derive(Default)]
struct Ranks(Vec<Child>);

impl Ranks {
    fn are_running(&mut self) -> Result<bool, Failure> {
        let mut running = false;
        for child in &mut self.0 {
            running |= child
                .is_running()
                .map_err(|error| Failure::new(Status::Other, "a rank cannot be waited for").because(error))?;
        }
        Ok(running)
    }

    fn signal(&mut self, signal: Signal) {
        self.0.iter_mut().for_each(|child| child.signal(signal));
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        self.0.iter_mut().for_each(Child::reap);
    }
}
