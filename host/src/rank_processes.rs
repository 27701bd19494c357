//! Several ranks of a job as child processes of this one: started, watched, stopped together.

mod child;
mod output;

use std::ffi::OsString;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGKILL, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::signal_name;

use crate::checksum;
use crate::exit::{Failure, Status};
pub use child::LAUNCHED;
use child::{Child, Ended};
use output::RankOutput;

/// How long ranks may go on after another has failed: longer than it takes them to notice by themselves and say so.
const GRACE: Duration = Duration::from_secs(8);
/// How long a rank may take to end once it was told to.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time between two looks at the children.
const TICK: Duration = Duration::from_millis(10);

/// Runs this program once per rank, each with its own arguments, until all have ended.
///
/// The first SIGINT or SIGTERM is passed on, so that all ranks write their checkpoint and stop; a second one ends them
/// at once.
///
/// # Errors
/// A rank cannot be started; a rank was killed ([`Status::Peer`]) or failed (its own status), named.
pub fn run(arguments: impl Iterator<Item = Vec<OsString>>) -> Result<(), Failure> {
    let failed = |what: &str, error: io::Error| Failure::new(Status::Other, what.to_owned()).because(error);
    let program = std::env::current_exe().map_err(|error| failed("this program's file cannot be found", error))?;
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(|error| failed("signals cannot be handled", error))?;
    let mut token = [0; 32];
    getrandom::fill(&mut token).map_err(|error| failed("no job token can be made", io::Error::other(error)))?;
    let token = checksum::hexadecimal(&token);
    let view = RankOutput::new();
    let mut ranks = Ranks::default();
    for (rank, arguments) in arguments.enumerate() {
        let child = Child::start(&program, &arguments, rank, &token, &view)
            .map_err(|error| failed(&format!("rank {rank} cannot be started"), error))?;
        ranks.0.push(child);
    }

    let mut asked = 0;
    let mut first_failure: Option<Instant> = None;
    while ranks.are_running()? {
        for _ in signals.pending() {
            asked += 1;
            ranks.signal(if asked < 3 { SIGTERM } else { SIGKILL });
        }
        if first_failure.is_none() && ranks.0.iter().any(Child::has_failed) {
            first_failure = Some(Instant::now());
        }
        match first_failure.map(|since| since.elapsed()) {
            Some(passed) if passed > GRACE + PATIENCE => ranks.signal(SIGKILL),
            Some(passed) if passed > GRACE => ranks.signal_once(SIGTERM),
            _ => {}
        }
        thread::sleep(TICK);
    }
    view.finish(ranks.0.iter_mut().flat_map(Child::readers));
    ranks.outcome()
}

/// The children. Whatever way this ends, none of them stays behind.
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

    fn signal(&mut self, signal: i32) {
        self.0.iter_mut().for_each(|child| child.signal(signal));
    }

    fn signal_once(&mut self, signal: i32) {
        self.0.iter_mut().filter(|child| !child.was_signalled()).for_each(|child| child.signal(signal));
    }

    /// What the ranks came to, the first cause first: who was killed, then who failed by itself, then who lost a peer.
    fn outcome(&self) -> Result<(), Failure> {
        let killed: Vec<String> = self.0.iter().filter_map(Child::killed_by_others).map(killed).collect();
        if let [first, more @ ..] = killed.as_slice() {
            let failure = more.iter().fold(Failure::new(Status::Peer, first), Failure::because);
            return Err(failure.help(
                "checkpoints already written are intact: run the same command again to resume. A rank that the system \
                 killed may have run out of memory",
            ));
        }
        let mut failed: Vec<(Instant, usize, Status)> = self.0.iter().filter_map(Child::failure).collect();
        // A rank that lost a peer failed because of the other, whoever ended first; and one that was interrupted says
        // nothing of those that were not.
        let consequence = |status| match status {
            Status::Interrupted => 2,
            Status::Peer => 1,
            _ => 0,
        };
        failed.sort_by_key(|&(when, rank, status)| (consequence(status), when, rank));
        match failed.first() {
            None => Ok(()),
            Some((_, _, Status::Interrupted)) => {
                Err(Failure::new(Status::Interrupted, "interrupted: all ranks have stopped"))
            }
            Some(&(_, rank, status)) => {
                let message = format!("rank {rank} ended with status {}", status.code());
                Err(Failure::new(status, message).help("its own error stands above"))
            }
        }
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        self.signal(SIGKILL);
        self.0.iter_mut().for_each(Child::reap);
    }
}

fn killed((rank, signal): (usize, i32)) -> String {
    match signal_name(signal) {
        Some(name) => format!("rank {rank} was killed by {name}"),
        None => format!("rank {rank} was killed by signal {signal}"),
    }
}

impl Ended {
    fn failed(self) -> bool {
        // A rank that was interrupted, or is done, leaves the first one to write its files.
        !matches!(self, Ended::Code(0) | Ended::Code(130))
    }
}
