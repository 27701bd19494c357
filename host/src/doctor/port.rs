//! Check `port`.

use std::io::{Error, ErrorKind};
use std::net::TcpListener;

use super::{Check, Finding, Subject};

pub(super) const CHECK: Check = Check {
    name: "port",
    description: "Whether rank 0 can listen at the address where the ranks connect.",
    runs_plugins: false,
    run,
};

fn run(subject: &Subject) -> Vec<Finding> {
    subject.of_job(|job| {
        let comm = &job.resolved.settings.comm;
        if comm.is_on_this_machine() {
            return vec![Finding::skipped(format!("{} is a socket and needs no port", comm.place()))];
        }
        vec![examine(&comm.address, comm.port).fact("address", comm.address.as_str()).fact("port", comm.port)]
    })
}

fn examine(address: &str, port: u16) -> Finding {
    match TcpListener::bind((address, port)) {
        Ok(_) => Finding::ok(format!("{address}:{port} is free")),
        Err(error) => refused(&format!("{address}:{port}"), &error),
    }
}

/// Never a failure: only rank 0 needs the port, and a running job of this user may be using it.
fn refused(place: &str, error: &Error) -> Finding {
    let finding = |message: &str| Finding::warning(format!("{place} {message}: {error}"));
    match error.kind() {
        ErrorKind::AddrInUse => {
            finding("is in use").help("set `comm.port` to another port, or stop the program that listens there")
        }
        ErrorKind::AddrNotAvailable => {
            Finding::skipped(format!("{place} is not an address of this machine: check it on the machine of rank 0"))
        }
        ErrorKind::PermissionDenied => finding("needs more rights").help("set `comm.port` to 1024 or more"),
        _ => finding("cannot be opened").help("set `comm.address` to the name or address of rank 0's machine"),
    }
}
