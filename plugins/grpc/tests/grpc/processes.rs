//! Ranks as processes of their own, for faults that happen to processes: the test program runs itself.

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mdt_grpc::{Config, TlsFiles};
use mdt_plugin_api::prelude::*;

use crate::setup::{TOKEN, backend, blame, finish, job, port, with};

/// Says which rank a process is, of how many, at which port, and what it does once all are connected.
const ROLE: &str = "MDT_GRPC_TEST_ROLE";

/// The certificates of a process and the port of its status, where it has them.
const TLS: &str = "MDT_GRPC_TEST_TLS";
const STATUS: &str = "MDT_GRPC_TEST_STATUS";

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
    /// As `Reduces`, where the system lets it have small files only, so that it cannot share memory.
    #[allow(dead_code, reason = "for tests of shared memory")]
    Cramped,
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
        Self::with(job, rank, role, &Config::default())
    }

    /// Starts one rank of a job with the certificates and the status of a configuration.
    pub fn with(job: &Bootstrap, rank: u32, role: Role, config: &Config) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        if let Some(TlsFiles { ca, cert, key }) = &config.tls {
            command.env(TLS, format!("{ca} {cert} {key}"));
        }
        if let Some(port) = config.status_port {
            command.env(STATUS, port.to_string());
        }
        let mut process = command
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

    /// Whether it runs.
    pub fn runs(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// Memory that it uses, where the system says it.
    pub fn resident_kib(&self) -> Option<usize> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).ok()?;
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse().ok())
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
pub fn after(victim: usize, ranks: Vec<Rank>, signal: libc::c_int) -> Vec<(String, Duration)> {
    after_a_while(Duration::from_millis(300), victim, ranks, signal)
}

/// The same after this time.
pub fn after_a_while(
    time: Duration,
    victim: usize,
    mut ranks: Vec<Rank>,
    signal: libc::c_int,
) -> Vec<(String, Duration)> {
    thread::sleep(time); // in the middle of it
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

/// As `ulimit -f` does.
fn limit_the_size_of_files() {
    let limit = libc::rlimit { rlim_cur: 1 << 30, rlim_max: 1 << 30 };
    // SAFETY: it is given a limit, and keeps nothing of it.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) };
    assert_eq!(set, 0);
}

#[test]
#[ignore = "what other tests start"]
fn a_rank_in_a_process_of_its_own() {
    let Ok(role) = env::var(ROLE) else { return };
    let words: Vec<&str> = role.split(' ').collect();
    let number = |index: usize| words[index].parse().unwrap();
    let bootstrap =
        Bootstrap { rank: number(0), world_size: number(1), ..with(&with(&job(1), "token", TOKEN), "port", number(2)) };
    if words[3] == "Cramped" {
        limit_the_size_of_files();
    }
    let tls = env::var(TLS).ok().map(|paths| {
        let [ca, cert, key] = paths.split(' ').map(str::to_owned).collect::<Vec<_>>().try_into().unwrap();
        TlsFiles { ca, cert, key }
    });
    let status_port = env::var(STATUS).ok().map(|port| port.parse().unwrap());
    let config = Config { tls, status_port, shared_memory: crate::SHARED_MEMORY, ..Config::default() };
    let communicator = match backend(config).unwrap().open(&bootstrap) {
        Ok(communicator) => communicator,
        Err(error) => {
            let (message, rank) = blame(&error);
            return println!("{MARK}{rank:?} {message}");
        }
    };
    // In memory of the communicator and in ordinary memory, where results are known.
    let region = communicator.region(4 << 20).unwrap();
    let sum = vec![bootstrap.world_size as f32; 1 << 20];
    let reduce = || {
        let mut buffers = [region.buffer::<f32>(0..1 << 20)?, vec![0.0f32; 1 << 20].into(), vec![0.0f32; 3].into()];
        buffers.iter_mut().try_for_each(|buffer| buffer.as_mut_slice::<f32>().map(|values| values.fill(1.0)))?;
        let sums = finish(communicator.all_reduce(buffers.into(), ReduceOp::Sum))?;
        assert!(sums.iter().all(|sums| sums.as_slice::<f32>().unwrap() == &sum[..sums.len()]), "a torn result");
        Ok(())
    };
    reduce().unwrap();
    println!("{MARK}connected");
    if words[3] == "Computes" {
        thread::sleep(Duration::from_secs(30));
    }
    let error: Error = loop {
        if let Err(error) = reduce() {
            break error;
        }
    };
    let (message, rank) = blame(&error);
    println!("{MARK}{rank:?} {message}");
    // As a host does that ends because of the error.
    communicator.abort("gave up");
}
