//! The ranks of a job as child processes of this one: started, watched, stopped together. Those of other machines are
//! children of an `ssh` here and of an `mdt-host` there.

mod child;
mod hostfile;
mod order;
mod outcome;
mod output;
mod remote_side;
mod requests;
mod restarts;
mod ssh;

use std::ffi::OsString;
use std::io::{self, BufRead};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, getpid, kill_process};

use crate::checksum;
use crate::exit::{Failure, Status};
pub use child::{AGAIN, DONE, is_launched, is_started_again, ranks_here};
use child::{Child, Start};
pub use hostfile::{Host, read as read_hostfile};
use output::RankOutput;
pub use remote_side::serve;
use requests::Request;
pub use requests::StopRequests;
pub use restarts::Restarts;
pub use ssh::Ssh;

/// How long the other ranks may go on after one has failed or the first rank has ended: longer than it takes them to
/// notice it and to print their own error.
const GRACE: Duration = Duration::from_secs(5);
/// How long a rank may take to end after SIGTERM: it may be in a long update, or saving.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a rank may take to save and end whose launcher has ended.
const ALONE: Duration = Duration::from_secs(600);
/// How often ranks on other machines are told that the launcher is there, and how long they go on without being told:
/// shorter than `ssh` here waits for an answer, so that they have ended when it gives up.
const BEAT: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(30);
/// Time between two looks at the children.
const TICK: Duration = Duration::from_millis(10);

/// One rank of a job.
pub struct Rank {
    /// The arguments of this program.
    pub arguments: Vec<OsString>,
    /// Further variables of its environment.
    pub environment: Vec<(String, String)>,
    /// The machine that it runs on; this one where absent.
    pub place: Option<Arc<Ssh>>,
    /// How many ranks that machine has.
    pub ranks_there: u32,
    /// Whether a rank on another machine computes with its share of the cores there.
    pub shares_cores: bool,
}

/// Runs this program once per rank, each with its own arguments, until all have ended.
///
/// The first SIGINT, SIGTERM or SIGHUP is passed on as SIGTERM, so that all ranks write their checkpoint and stop. A
/// second one kills them; repeats within a second count as one.
///
/// # Errors
/// A rank cannot be started; a rank was killed ([`Status::Peer`]) or failed (its own status), named; the job was
/// interrupted.
pub fn run(all: &[Rank], requests: &mut StopRequests) -> Result<(), Failure> {
    let failed = |what: &str, error: io::Error| Failure::new(Status::Other, what.to_owned()).because(error);
    let program = std::env::current_exe().map_err(|error| failed("this program's file cannot be found", error))?;
    let mut random = [0; 40];
    getrandom::fill(&mut random).map_err(|error| failed("no job token can be made", io::Error::other(error)))?;
    let (job, token) = random.split_at(8);
    let (job, token) = (checksum::hexadecimal(job), checksum::hexadecimal(token));
    let output = RankOutput::new();
    let start = Start { program: &program, job: &job, token: &token, output: &output };
    let mut ranks = Ranks::default();
    for (rank, how) in all.iter().enumerate() {
        ranks.0.push(Child::start(rank, how, &start)?);
    }

    let mut killed = false;
    let mut beat = Instant::now();
    let mut ending: Option<Instant> = None;
    while ranks.are_running()? {
        match requests.next() {
            None => {}
            Some(Request::Stop) => ranks.signal(Signal::TERM),
            Some(Request::StopAtOnce) => {
                killed = true;
                ranks.signal(Signal::KILL);
            }
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
        if beat.elapsed() > BEAT {
            beat = Instant::now();
            ranks.0.iter_mut().for_each(Child::beat);
        }
        thread::sleep(TICK);
    }
    output.finish(ranks.0.iter_mut().flat_map(Child::readers));
    let ends: Vec<_> = ranks.0.iter().filter_map(Child::end).collect();
    outcome::of(&ends, killed)
}

/// In a rank that `launch` has started: stops it, as SIGTERM does, when the launching process ends without a word. That
/// process holds the other end of standard input for as long as it lives.
pub fn stop_with_the_launcher() {
    // One that is stopped has to wake up to notice it.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::CONT));
    thread::spawn(|| {
        for line in io::stdin().lock().lines().map_while(io::Result::ok) {
            let _ = TOLD.set(line); // the first rank that failed
        }
        let _ = kill_process(getpid(), Signal::TERM);
        // A rank that hangs must not stay for ever.
        thread::sleep(ALONE);
        let _ = kill_process(getpid(), Signal::KILL);
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
