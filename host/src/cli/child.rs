//! This command once more, in a child process: whatever a plugin does there, this process goes on.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Output, Stdio};

use signal_hook::low_level::signal_name;

use crate::exit::{Failure, Status};

/// This command with further arguments.
fn command(more: &[&str]) -> Result<Command, Failure> {
    let program = env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.args(env::args_os().skip(1)).args(more.iter().map(OsString::from));
    Ok(command)
}

/// Runs it on the same terminal.
///
/// # Errors
/// It cannot be started.
pub(super) fn run(more: &[&str]) -> Result<ExitStatus, Failure> {
    command(more)?.status().map_err(failed)
}

/// Runs it for its output.
///
/// # Errors
/// It cannot be started.
pub(super) fn output(more: &[&str]) -> Result<Output, Failure> {
    command(more)?.stdin(Stdio::null()).output().map_err(failed)
}

/// How a child ended that did not do what it was to do, in words.
pub(super) fn end(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it exited with status {code}"),
        (None, Some(signal)) => format!("it was ended by {}", signal_name(signal).unwrap_or("a signal")),
        (None, None) => "it was stopped".to_owned(),
    }
}

/// Has the system end this process, a child, when its parent has ended.
pub(super) fn end_with_the_parent() {
    #[cfg(target_os = "linux")]
    // Where the system refuses, the child goes on to its end.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
}

fn failed(error: std::io::Error) -> Failure {
    Failure::new(Status::Other, "no child process can be started").because(error)
}
