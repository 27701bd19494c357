//! Ranks as processes of their own, for faults that happen to processes: the test program runs itself.

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mdt_grpc::Config;
use mdt_plugin_api::prelude::*;

use crate::setup::{TOKEN, backend, blame, finish, job, port, with};

/// Says which rank a process is, of how many, at which port, and what it does once all are connected.
const ROLE: &str = "MDT_GRPC_TEST_ROLE";

/// What begins a line for the test, among those of the test framework.
const MARK: &str = "rank says: ";

/// A rank in a process of its own. It is killed at the end of the test.
pub struct Rank {
    process: Child,
    lines: BufReader<ChildStdout>,
}

/// What a rank does after its first collective.
#[derive(Clone, Copy, Debug)]
pub enum Role {
    /// One large collective after the other.
    Reduces,
    /// Nothing: as a rank that computes for long.
    Computes,
}

impl Rank {
    /// Starts a job with these roles in order of ranks, and waits until all are connected.
    pub fn start(roles: &[Role]) -> Vec<Self> {
        let job = job(roles.len() as u32);
        let mut ranks: Vec<_> = (0..).zip(roles).map(|(rank, role)| Self::of(&job, rank, *role)).collect();
        ranks.iter_mut().for_each(|rank| assert_eq!(rank.says(), "connected"));
        ranks
    }

    /// Starts one rank of a job.
    pub fn of(job: &Bootstrap, rank: u32, role: Role) -> Self {
        let mut process = Command::new(env::current_exe().unwrap())
            .args(["--exact", "processes::a_rank_in_a_process_of_its_own", "--ignored", "--nocapture"])
            .env(ROLE, format!("{rank} {} {} {role:?}", job.world_size, port(job)))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap());
        Self { process, lines }
    }

    /// The next line.
    pub fn says(&mut self) -> String {
        let mut line = String::new();
        while self.lines.read_line(&mut line).unwrap() > 0 {
            if let Some((_, said)) = line.split_once(MARK) {
                return said.trim_end().to_owned();
            }
            line.clear();
        }
        "nothing more".to_owned()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: the process is a child that was not waited for, so the id is its own.
        let sent = unsafe { libc::kill(self.process.id() as libc::pid_t, signal) };
        assert_eq!(sent, 0);
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Does something to one rank, and gives what each other then says, and after how long.
pub fn after(victim: usize, mut ranks: Vec<Rank>, signal: libc::c_int) -> Vec<(String, Duration)> {
    thread::sleep(Duration::from_millis(300)); // in the middle of it
    let victim = ranks.remove(victim);
    let begin = Instant::now();
    victim.signal(signal);
    let survivors = thread::scope(|scope| {
        let listen = |rank: &mut Rank| (rank.says(), begin.elapsed());
        let listeners: Vec<_> = ranks.iter_mut().map(|rank| scope.spawn(move || listen(rank))).collect();
        listeners.into_iter().map(|listener| listener.join().unwrap()).collect()
    });
    drop(victim);
    survivors
}

#[test]
#[ignore = "what other tests start"]
fn a_rank_in_a_process_of_its_own() {
    let Ok(role) = env::var(ROLE) else { return };
    let words: Vec<&str> = role.split(' ').collect();
    let number = |index: usize| words[index].parse().unwrap();
    let bootstrap =
        Bootstrap { rank: number(0), world_size: number(1), ..with(&with(&job(1), "token", TOKEN), "port", number(2)) };
    let communicator = match backend(Config::default()).unwrap().open(&bootstrap) {
        Ok(communicator) => communicator,
        Err(error) => {
            let (message, rank) = blame(&error);
            return println!("{MARK}{rank:?} {message}");
        }
    };
    let reduce = || finish(communicator.all_reduce(vec![vec![1.0f32; 1 << 20].into()], ReduceOp::Sum));
    reduce().unwrap();
    println!("{MARK}connected");
    if words[3] == "Computes" {
        thread::sleep(Duration::from_secs(30));
    }
    let error = loop {
        if let Err(error) = reduce() {
            break error;
        }
    };
    let (message, rank) = blame(&error);
    println!("{MARK}{rank:?} {message}");
    // As a host does that ends because of the error.
    communicator.abort("gave up");
}
