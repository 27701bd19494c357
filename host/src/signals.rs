//! SIGINT, SIGTERM and SIGHUP ask the job to stop where nothing is lost; another one later stops it at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

use crate::exit::{Failure, Status};
use crate::progress;

/// Signals within this time after the first are the same request: a terminal, a shell and a launcher may each pass one
/// on.
pub(crate) const SAME_REQUEST: Duration = Duration::from_secs(1);

/// How long the last message may take where the terminal does not accept it.
const LAST_MESSAGE: Duration = Duration::from_millis(200);

/// A flag that the first signal sets. One that comes more than a second later ends the process with status 1, because
/// 130 says that nothing was lost.
pub fn cancellation() -> Result<Arc<AtomicBool>, Failure> {
    let failed = |error: std::io::Error| Failure::new(Status::Other, "signals cannot be handled").because(error);
    let cancelled = Arc::new(AtomicBool::new(false));
    let mut signals = Signals::new(stop_signals()).map_err(failed)?;
    let flag = Arc::clone(&cancelled);
    let watch = move || {
        let mut first: Option<Instant> = None;
        for _ in signals.forever() {
            match first {
                None => {
                    first = Some(Instant::now());
                    flag.store(true, Ordering::Relaxed);
                    // On a thread of its own: a terminal that accepts no output must not hold up the next signal.
                    thread::spawn(|| progress::note("stopping at the next safe point; another signal stops at once"));
                }
                Some(first) if first.elapsed() < SAME_REQUEST => {}
                Some(_) => stop_at_once(),
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(watch).map_err(failed)?;
    Ok(cancelled)
}

fn stop_at_once() -> ! {
    let (printed, done) = mpsc::channel();
    thread::spawn(move || {
        progress::tell(&stopped_at_once().to_string());
        printed.send(())
    });
    let _ = done.recv_timeout(LAST_MESSAGE);
    // Without exit handlers: other threads still compute with what those would free.
    low_level::exit(i32::from(Status::Other.code()))
}

/// The failure of a job that a second signal has stopped.
pub(crate) fn stopped_at_once() -> Failure {
    Failure::new(Status::Other, "stopped at once by a second signal")
        .because("the updates since the last checkpoint are not saved")
        .help("the same command continues from the last checkpoint")
}

/// The signals that stop a job: SIGHUP too, unless it was ignored when this process began, as by `nohup`.
pub(crate) fn stop_signals() -> Vec<i32> {
    [SIGINT, SIGTERM].into_iter().chain((!is_ignored(SIGHUP)).then_some(SIGHUP)).collect()
}

/// Whether the process was started with this signal ignored.
fn is_ignored(signal: i32) -> bool {
    // SAFETY: all fields of `sigaction` are integers, pointers or sets of bits, for which zero is a value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: without a new action the call only writes the present one to `action`, which lives through it.
    let read = unsafe { libc::sigaction(signal, std::ptr::null(), &mut action) } == 0;
    read && action.sa_sigaction == libc::SIG_IGN
}
