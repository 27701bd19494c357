//! Check `port`.

use std::io::{Error, ErrorKind};
use std::net::TcpListener;

use super::{Check, Finding, Subject};

pub(super) const CHECK: Check =
    Check { name: "port", description: "Whether the first rank could listen where the ranks are to meet.", run };

fn run(subject: &Subject) -> Vec<Finding> {
    let comm = match subject.job() {
        Ok(job) => &job.resolved.settings.comm,
        Err(skipped) => return vec![skipped],
    };
    let (address, port) = (comm.address.as_str(), comm.port);
    let finding = match TcpListener::bind((address, port)) {
        Ok(_) => Finding::ok(format!("{address}:{port} is free")),
        Err(error) => refused(&format!("{address}:{port}"), &error),
    };
    vec![finding.fact("address", address).fact("port", port)]
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
