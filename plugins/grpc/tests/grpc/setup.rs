//! Ranks as threads of one process, connected over the loopback interface.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, LazyLock, Mutex};
use std::thread;
use std::time::Duration;

use mdt_grpc::{Config, Grpc, Ranks};
use mdt_plugin_api::HostServices;
use mdt_plugin_api::abi::across;
use mdt_plugin_api::prelude::*;
use mdt_plugin_api::register::{Backend, Connected};

use crate::network::free_port;

/// Longer than anything here may take.
pub const LONG: Duration = Duration::from_secs(20);

/// The job token of all tests.
pub const TOKEN: &str = "6a09e667f3bcc908b2fb1366ea957d3e3adec17512775099da2f590b0667322a";

/// A host that keeps warnings and notes, and says whether the job is being cancelled.
#[derive(Default)]
pub struct Host {
    pub cancelled: AtomicBool,
    pub warnings: Mutex<Vec<String>>,
    pub notes: Mutex<Vec<String>>,
}

impl HostServices for Host {
    fn log(&self, level: LogLevel, message: &str) {
        match level {
            LogLevel::Warn => self.warnings.lock().unwrap().push(message.to_owned()),
            LogLevel::Info => self.notes.lock().unwrap().push(message.to_owned()),
            LogLevel::Debug => {}
        }
    }
    fn metric(&self, _name: &str, _value: f64) {}
    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// A configuration with the job token of all tests.
pub fn config() -> Config {
    static FILE: LazyLock<String> = LazyLock::new(|| token_file("token", TOKEN, 0o600));
    Config { token_file: Some(FILE.clone()), shared_memory: crate::SHARED_MEMORY, ..Config::default() }
}

/// Writes a token file with this mode; gives its path.
pub fn token_file(name: &str, token: &str, mode: u32) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    fs::write(&path, token).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A backend with this configuration.
pub fn backend(config: Config) -> Result<Grpc> {
    backend_of(Arc::default(), config)
}

/// The same with a host that the test keeps.
pub fn backend_of(host: Arc<Host>, config: Config) -> Result<Grpc> {
    let setup = Setup { services: Services::new(host), ..Setup::default() };
    Grpc::create(config, &setup)
}

/// A job of this many ranks that meets at a free port.
pub fn job(world_size: u32) -> Bootstrap {
    let job = Bootstrap { world_size, identity: r#"{"seed":0}"#.into(), ..Bootstrap::default() };
    with(&with(&job, "address", "127.0.0.1"), "port", free_port())
}

/// The job with one of its values.
pub fn with(job: &Bootstrap, name: &str, value: impl ToString) -> Bootstrap {
    let mut job = job.clone();
    job.values.insert(name.to_owned(), value.to_string());
    job
}

/// Where the ranks of a job meet.
pub fn place(job: &Bootstrap) -> (&str, u16) {
    (job.value("address").unwrap(), port(job))
}

/// The port where the ranks of a job meet.
pub fn port(job: &Bootstrap) -> u16 {
    job.value("port").unwrap().parse().unwrap()
}

/// Runs every rank of a job in a thread of its own, and gives what they came to in order of ranks.
pub fn run<T: Send>(job: &Bootstrap, rank: impl Fn(Connected) -> T + Sync) -> Vec<T> {
    run_with(job, config(), rank)
}

/// The same with a configuration.
pub fn run_with<T: Send>(job: &Bootstrap, config: Config, rank: impl Fn(Connected) -> T + Sync) -> Vec<T> {
    let bootstraps: Vec<_> = (0..job.world_size).map(|rank| Bootstrap { rank, ..job.clone() }).collect();
    open_all(&bootstraps, &config, |communicator| rank(communicator.unwrap()))
}

/// Opens every one of these in a thread of its own, at once, and goes on when all are open or have failed.
pub fn open_all<T: Send>(
    bootstraps: &[Bootstrap],
    config: &Config,
    rank: impl Fn(Result<Connected>) -> T + Sync,
) -> Vec<T> {
    let opened = Barrier::new(bootstraps.len());
    thread::scope(|scope| {
        let start = |bootstrap| {
            let (rank, opened) = (&rank, &opened);
            scope.spawn(move || {
                let abilities = |ranks: Arc<Ranks>| Connected {
                    reduce_scatter: Some(ranks.clone()),
                    point_to_point: Some(ranks.clone()),
                    regions: Some(ranks.clone()),
                    ..Connected::new(ranks)
                };
                let backend = Backend(backend(config.clone()).unwrap(), abilities);
                let communicator = across::comm(Box::new(backend)).unwrap().open(bootstrap);
                opened.wait();
                rank(communicator)
            })
        };
        let ranks: Vec<_> = bootstraps.iter().map(start).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// The result of a collective.
pub fn done(work: Result<Box<dyn Work>>) -> Vec<Buffer> {
    finish(work).unwrap()
}

/// What became of a collective.
pub fn finish(work: Result<Box<dyn Work>>) -> Result<Vec<Buffer>> {
    match work?.wait(LONG)? {
        Outcome::Done(buffers) => Ok(buffers),
        Outcome::TimedOut => panic!("a collective hangs"),
    }
}

/// What a collective failed with: its message, and the rank that it names.
pub fn failure(work: Result<Box<dyn Work>>) -> (String, Option<u32>) {
    blame(&finish(work).unwrap_err())
}

/// An error's message, and the rank that it names.
pub fn blame(error: &Error) -> (String, Option<u32>) {
    let rank = error.context().iter().find(|(key, _)| key == "rank").map(|(_, rank)| rank.parse().unwrap());
    (error.message().to_owned(), rank)
}
