//! Check `port`.

use std::io::{Error, ErrorKind};
use std::net::TcpListener;

use super::{Check, Finding, Subject};

pub(super) const CHECK: Check =
    Check { name: "port", description: "Whether the first rank could listen where the ranks are to meet.", run };

fn run(subject: &Subject) -> Vec<Finding> {
    subject.of_job(|job| {
        let comm = &job.resolved.settings.comm;
        vec![examine(&comm.address, comm.port).fact("address", comm.address.as_str()).fact("port", comm.port)]
    })
}

fn examine(address: &str, port: u16) -> Finding {
    match TcpListener::bind((address, port)) {
        Ok(_) => Finding::ok(format!("{address}:{port} is free")),
        Err(error) => refused(&format!("{address}:{port}"), &error),
    }
}

/// Never a failure: the port is needed by the first rank only, and perhaps it is a job of this user that has it.
fn refused(place: &str, error: &Error) -> Finding {
    let finding = |message: &str| Finding::warning(format!("{place} {message}: {error}"));
    match error.kind() {
        ErrorKind::AddrInUse => finding("is taken").help("set `comm.port` to another port, or end what listens there"),
        ErrorKind::AddrNotAvailable => {
            Finding::skipped(format!("{place} is not an address of this machine: check it where the first rank runs"))
        }
        ErrorKind::PermissionDenied => finding("may not be listened on").help("set `comm.port` to a port from 1024 on"),
        _ => finding("cannot be listened on").help("set `comm.address` to a name or address of the first rank's host"),
    }
}
