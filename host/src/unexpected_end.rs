//! A process that ends inside foreign code says whose: a plugin that calls `exit`, and faults.

use std::fmt;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};

use mdt_plugin_api::abi::{Call, current_call};

use crate::component_files;
use crate::exit::{Failure, Status};

/// Whether the process is ending by itself.
static EXPECTED: AtomicBool = AtomicBool::new(false);

/// The signals by which a process ends that has done something impossible.
const FAULTS: [(i32, &str); 5] = [
    (libc::SIGSEGV, "SIGSEGV, an access to memory that is not its own or an overflow of the stack"),
    (libc::SIGBUS, "SIGBUS, an access to memory that is not there"),
    (libc::SIGILL, "SIGILL, an instruction that this processor does not have"),
    (libc::SIGFPE, "SIGFPE, an impossible calculation"),
    (libc::SIGABRT, "SIGABRT, an abort"),
];

/// Reports ends of this process that it did not decide on, until [`expected`].
pub fn report() {
    // SAFETY: the function has the type that is asked for, and uses nothing that could be gone by then.
    unsafe { libc::atexit(at_exit) };
    for (signal, _) in FAULTS {
        // SAFETY: all fields of `sigaction` are integers, pointers or sets of bits, for which zero is a value.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = at_fault as *const () as usize;
        action.sa_flags = libc::SA_ONSTACK;
        // SAFETY: `action` is complete, and lives through the call.
        unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) };
    }
}

/// From now on the process ends by itself.
pub fn expected() {
    EXPECTED.store(true, Ordering::Relaxed);
}

/// Ends the process with a status whose reason was printed already.
pub fn exit(status: Status) -> ! {
    expected();
    std::process::exit(i32::from(status.code()))
}

/// Whether a process of this program that ended like this has printed why.
pub fn is_reported(status: ExitStatus) -> bool {
    FAULTS.iter().any(|(fault, _)| status.signal() == Some(*fault))
}

/// Lets the first thread that comes here go on to report; others wait for the end.
fn first_only() {
    static REPORTED: AtomicBool = AtomicBool::new(false);
    if REPORTED.swap(true, Ordering::Relaxed) {
        loop {
            // SAFETY: it only waits for a signal.
            unsafe { libc::pause() };
        }
    }
}

extern "C" fn at_exit() {
    if EXPECTED.load(Ordering::Relaxed) {
        return;
    }
    first_only();
    let call = current_call();
    let component = call.map_or("a library that a plugin has brought along", |call| call.component);
    let failure = Failure::new(Status::Plugin, format!("{component} ended the process by calling exit"));
    let failure = call
        .into_iter()
        .fold(failure, |failure, call| failure.at(Place(call)))
        .because("nothing was saved after the last checkpoint")
        .help("the same command without this plugin continues from there; tell its author");
    write_to_stderr(format!("{failure}\n").as_bytes());
    // SAFETY: it ends the process without further handlers.
    unsafe { libc::_exit(i32::from(Status::Plugin.code())) }
}

extern "C" fn at_fault(signal: i32) {
    first_only();
    let what = FAULTS.iter().find(|(number, _)| *number == signal).map_or("a signal", |(_, what)| what);
    let mut text = [0; 1024];
    let mut room = &mut text[..];
    // What does not fit is cut. Nothing is allocated: the memory of the process may be damaged.
    let _ = match current_call() {
        Some(call) => writeln!(room, "error: the process was ended by {what}\n  inside {}", Place(call)),
        None => writeln!(room, "error: the process was ended by {what}"),
    };
    let length = 1024 - room.len();
    write_to_stderr(&text[..length]);
    // SAFETY: with the default action restored, the signal ends the process when this handler returns.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

/// Where a call is, made without an allocation.
struct Place(Call);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Call { component, interface, function } = self.0;
        write!(f, "{component}{}: the call `{function}` ({interface})", component_files::place(component))
    }
}

fn write_to_stderr(text: &[u8]) {
    // SAFETY: the bytes live through the call, which a signal handler may make.
    unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
}
