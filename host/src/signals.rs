//! SIGINT, SIGTERM and SIGHUP ask the job to stop where nothing is lost; another one later stops it at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

use crate::exit::{Failure, Status};
use crate::{progress, unexpected_end};

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

/// What an interruption ends in a conversation.
#[derive(Clone, Copy, Debug, Default)]
enum Talking {
    /// The program, which waits for the user.
    #[default]
    Waits,
    /// The answer that is being made.
    Answers,
    /// The program: the answer was interrupted at this time. What comes at once is the same request.
    Interrupted(Instant),
}

/// Interruptions of a conversation: the first stops an answer, any other ends the program.
#[derive(Clone, Debug, Default)]
pub struct Interruptions(Arc<Mutex<Talking>>);

impl Interruptions {
    /// From now on an interruption stops an answer.
    pub fn begin_answer(&self) {
        self.set(Talking::Answers);
    }

    /// From now on an interruption ends the program, unless it is the request that has stopped the answer.
    pub fn end_answer(&self) {
        let mut talking = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Talking::Answers = *talking {
            *talking = Talking::Waits;
        }
    }

    /// Whether the answer stops here.
    pub fn stop_the_answer(&self) -> bool {
        matches!(*self.0.lock().unwrap_or_else(PoisonError::into_inner), Talking::Interrupted(_))
    }

    /// Takes note of an interruption; returns whether it ends the program.
    fn interrupt(&self, now: Instant) -> bool {
        let mut talking = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *talking {
            Talking::Answers => *talking = Talking::Interrupted(now),
            Talking::Interrupted(first) if now.duration_since(first) < SAME_REQUEST => {}
            Talking::Interrupted(_) | Talking::Waits => return true,
        }
        false
    }

    fn set(&self, talking: Talking) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = talking;
    }
}

/// Handles the signals of a conversation: SIGINT as [`Interruptions`] says, the others end the program.
pub fn interruptions() -> Result<Interruptions, Failure> {
    let failed = |error: std::io::Error| Failure::new(Status::Other, "signals cannot be handled").because(error);
    let interruptions = Interruptions::default();
    let mut signals = Signals::new(stop_signals()).map_err(failed)?;
    let seen = interruptions.clone();
    let watch = move || {
        for signal in signals.forever() {
            if signal != SIGINT || seen.interrupt(Instant::now()) {
                unexpected_end::expected();
                // Without exit handlers: another thread may compute with what those would free.
                low_level::exit(i32::from(Status::Interrupted.code()));
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(watch).map_err(failed)?;
    Ok(interruptions)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_interruption_stops_an_answer_and_another_one_ends_the_program() {
        let (interruptions, begin) = (Interruptions::default(), Instant::now());
        assert!(interruptions.interrupt(begin), "nothing is being answered");
        interruptions.begin_answer();
        assert!(!interruptions.stop_the_answer());
        assert!(!interruptions.interrupt(begin) && interruptions.stop_the_answer());
        assert!(!interruptions.interrupt(begin + SAME_REQUEST / 2), "a shell may pass on what a terminal sends");
        interruptions.end_answer();
        assert!(!interruptions.interrupt(begin + SAME_REQUEST / 2), "nor does it matter that the answer has ended");
        assert!(interruptions.interrupt(begin + SAME_REQUEST));
        interruptions.begin_answer();
        interruptions.end_answer();
        assert!(interruptions.interrupt(begin));
    }
}
