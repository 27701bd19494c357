//! A rank on another machine, as a child of this program there: `mdt-host launched-rank`, which `launch` starts over ssh.
//!
//! Its standard input is the launcher's hand: when it closes, whoever has ended, or when nothing has come for a while, the
//! rank saves and ends too.

use std::io::{self, BufRead, Stdin};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;
use std::time::Instant;

use rustix::process::Signal;

use super::child::Child;
use super::order::{Message, Order, SIGNALLED, STOPPED};
use super::requests::StopRequests;
use super::{ALONE, SILENCE, TICK};
use crate::exit::{Failure, Status};

/// Starts the rank that standard input orders, passes on what comes after that, and returns the status with which this
/// process says how the rank ended.
///
/// # Errors
/// The order cannot be read, or the rank cannot be started as it says.
pub fn serve() -> Result<i32, Failure> {
    // A hang-up is no reason to leave the rank alone.
    let mut requests = StopRequests::new()?;
    let stdin = io::stdin();
    let mut line = String::new();
    let read = stdin.read_line(&mut line);
    read.map_err(|error| Failure::new(Status::Other, "standard input cannot be read").because(error))?;
    let mut child = start(&line)?;
    let messages = listen(stdin);
    let failed = |error: io::Error| Failure::new(Status::Other, "a rank cannot be waited for").because(error);
    let (mut ending, mut is_closed) = (false, false);
    let mut heard = Instant::now();
    let mut alone: Option<Instant> = None;
    while child.is_running().map_err(failed)? {
        let message = messages.try_recv();
        if message.is_ok() {
            heard = Instant::now();
        }
        match message {
            Ok(Message::Alive) => {}
            Ok(Message::Signal(number)) => {
                Signal::from_named_raw(number).into_iter().for_each(|signal| child.signal(signal));
            }
            Ok(Message::Tell(line)) => child.tell(&line),
            Ok(Message::Ending) => ending = true,
            Err(TryRecvError::Empty) => thread::sleep(TICK),
            Err(TryRecvError::Disconnected) => {
                thread::sleep(TICK);
                is_closed = true;
            }
        }
        if alone.is_none() && (is_closed || heard.elapsed() > SILENCE || requests.next().is_some()) {
            alone = Some(Instant::now());
            child.signal(Signal::TERM);
        }
        if ending || alone.is_some() {
            child.kill_if_stopped();
        }
        if alone.is_some_and(|since| since.elapsed() > ALONE) {
            child.signal(Signal::KILL);
        }
    }
    let end = child.end();
    Ok(end.map_or(1, |end| if end.stopped { STOPPED } else { status(end.how) }))
}

/// Starts the rank of an order.
fn start(line: &str) -> Result<Child, Failure> {
    let wrong = |cause: &dyn std::fmt::Display| {
        Failure::configuration("this command is not for users: `mdt-host launch --hostfile` starts it over ssh")
            .because(cause)
    };
    let order: serde_json::Value = serde_json::from_str(line).map_err(|error| wrong(&error))?;
    let (theirs, ours) = (order["version"].as_str().unwrap_or("unknown"), env!("CARGO_PKG_VERSION"));
    if theirs != ours {
        let message = format!("mdt-host here has version {ours}, and the one that launches has {theirs}");
        return Err(Failure::configuration(message).help("install the same version on all machines"));
    }
    let order: Order = serde_json::from_value(order).map_err(|error| wrong(&error))?;
    std::env::set_current_dir(&order.directory).map_err(|error| {
        Failure::configuration("the working directory of the launcher is not on this machine")
            .at(order.directory.display())
            .because(error)
            .help("name another one with `--remote-directory`")
    })?;
    let program = std::env::current_exe();
    let started = program.and_then(|program| Child::of_order(&program, order));
    started.map_err(|error| Failure::new(Status::Other, "the rank cannot be started").because(error))
}

/// Reads messages until standard input closes.
fn listen(stdin: Stdin) -> Receiver<Message> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in stdin.lock().lines().map_while(io::Result::ok) {
            // One that a later version has is passed over.
            if let Ok(message) = serde_json::from_str(&line)
                && sender.send(message).is_err()
            {
                return;
            }
        }
    });
    receiver
}

fn status(how: ExitStatus) -> i32 {
    how.code().or_else(|| Some(SIGNALLED + how.signal()?)).unwrap_or(1)
}
