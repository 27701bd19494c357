//! `mdt-host certs`: certificates for encrypted connections between machines.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::output::print;
use crate::certs::{self, Host, Made};
use crate::exit::Failure;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Make a certificate for each host of a cluster, and the authority that signs them.
    ///
    /// The first call makes the authority in DIR; later ones add hosts to it. Nothing is overwritten.
    New(Arguments),
}

#[derive(Args)]
pub(super) struct Arguments {
    /// The directory of the authority, in which each host has a directory of its own.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Days for which the certificates of hosts are valid.
    #[arg(long, value_name = "DAYS", default_value_t = certs::DEFAULT_DAYS,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(certs::MOST_DAYS)))]
    days: u32,
    /// A host: its name or address as the other ranks reach it, or several with commas between them.
    #[arg(value_name = "HOST", required = true)]
    hosts: Vec<String>,
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    let Command::New(Arguments { out, days, hosts }) = command;
    let hosts = hosts.iter().map(|host| Host::parse(host)).collect::<Result<Vec<_>, _>>()?;
    let Made { authority_is_new, hosts: made } = certs::make(out, &hosts, *days)?;
    let directory = out.display();
    if authority_is_new {
        print(format_args!(
            "made the authority {directory}/ca.pem. Keep {directory}/ca.key here and secret: it makes certificates"
        ))?;
    }
    for (host, (place, last_day)) in hosts.iter().zip(&made) {
        print(format_args!("made {} for {}, valid until {last_day}", place.display(), host.names().join(", ")))?;
    }
    let (host, place) = (hosts[0].name(), made[0].0.display());
    print(format_args!(
        "\nCopy to each host its own directory, for example as `tls` in the directory where the job is started:\n\n    \
         scp -r {place} {host}:JOB/tls\n\nand give all ranks, beside the job token, these lines:\n\n    [comm]\n    \
         tls = {{ ca = \"tls/ca.pem\", cert = \"tls/host.pem\", key = \"tls/host.key\" }}\n\n`comm.address` must be one of \
         the names or addresses of the host of rank 0."
    ))
}
