//! Where the ranks of a launched job run.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Arguments, is_open};
use crate::config::Resolved;
use crate::counted::counted;
use crate::exit::{Failure, Status};
use crate::launchers::{JOB_ID, JOB_TOKEN};
use crate::rank_processes::{Host, Ssh, read_hostfile};

/// The place of one rank.
pub(super) struct Seat {
    /// The host's name, without a user.
    name: String,
    /// Where the others reach it, if the hostfile says so.
    address: Option<String>,
    /// How it is reached; this machine where absent.
    pub(super) place: Option<Arc<Ssh>>,
    pub(super) environment: Vec<(String, String)>,
    /// How many ranks that machine has.
    pub(super) ranks_there: u32,
}

/// The places of all ranks.
pub(super) struct Seats(pub(super) Vec<Seat>);

impl Seats {
    /// Those of the hostfile, else on this machine.
    ///
    /// # Errors
    /// The hostfile or an option is wrong; there are more ranks than slots.
    pub(super) fn of(arguments: &Arguments, resolved: &Resolved) -> Result<Self, Failure> {
        let world_size = resolved.settings.comm.world_size;
        let given = environment(&arguments.env)?;
        let Some(path) = &arguments.hostfile else {
            let seat = |_| Seat {
                name: "localhost".to_owned(),
                address: None,
                place: None,
                environment: given.clone(),
                ranks_there: world_size,
            };
            return Ok(Self((0..world_size).map(seat).collect()));
        };
        let hosts = read_hostfile(path)?;
        let slots: u32 = hosts.iter().map(|host| host.slots).sum();
        let all = arguments.world_size.is_none() && is_open(resolved, "comm.world_size");
        let mut left = if all { slots } else { world_size };
        if left > slots {
            let message = format!("{} need a slot each, and the hostfile has {slots}", counted(left as usize, "rank"));
            return Err(Failure::configuration(message).at(path.display()).help("a line `node1 slots=2` has two"));
        }
        let mut seats: Vec<Seat> = Vec::new();
        for host in hosts {
            let ranks = host.slots.min(left);
            left -= ranks;
            let place = if is_here(&host.name) { None } else { Some(Arc::new(ssh(arguments, &host)?)) };
            let mut variables = environment(&host.environment)?;
            if place.is_some() {
                variables.extend(own_environment());
            }
            variables.extend(given.iter().cloned());
            seats.extend((0..ranks).map(|_| Seat {
                name: without_user(&host.name).to_owned(),
                address: host.address.clone(),
                place: place.clone(),
                environment: variables.clone(),
                ranks_there: ranks,
            }));
        }
        // The JSON form has an entry for each rank.
        let mut ranks_of: BTreeMap<String, u32> = BTreeMap::new();
        seats.iter().for_each(|seat| *ranks_of.entry(seat.name.clone()).or_default() += 1);
        seats.iter_mut().for_each(|seat| seat.ranks_there = ranks_of[&seat.name]);
        Ok(Self(seats))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether all ranks are on this machine.
    pub(super) fn are_here(&self) -> bool {
        self.0.iter().all(|seat| seat.place.is_none())
    }

    /// Where all ranks reach the first one, if some are on other machines.
    ///
    /// # Errors
    /// The hostfile has no name for it that the others could use.
    pub(super) fn address(&self) -> Result<Option<String>, Failure> {
        let Some(first) = self.0.first().filter(|_| !self.are_here()) else { return Ok(None) };
        let address = first.reached_at();
        let all_loopback = || self.0.iter().all(|seat| is_loopback(&seat.reached_at()));
        if is_loopback(&address) && !all_loopback() {
            let message = format!("rank 0 is on `{}`, which other hosts know as themselves", first.name);
            return Err(Failure::configuration(message)
                .help("give this machine's name or address in the hostfile, or set `comm.address`"));
        }
        Ok(Some(if is_loopback(&address) { "127.0.0.1".to_owned() } else { address }))
    }

    /// Whether rank 0 listens on this machine.
    pub(super) fn meet_here(&self, address: &str) -> bool {
        is_loopback(address) || self.0.first().is_some_and(|seat| seat.place.is_none())
    }
}

impl fmt::Display for Seats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranks = counted(self.len(), "rank");
        if self.are_here() {
            return write!(f, "{ranks} here");
        }
        let mut names: Vec<(&str, u32)> = self.0.iter().map(|seat| (seat.name.as_str(), seat.ranks_there)).collect();
        names.dedup();
        let names: Vec<_> = names.iter().map(|(name, ranks)| format!("{name} ({ranks})")).collect();
        write!(f, "{ranks} on {}", names.join(", "))
    }
}

impl Seat {
    fn reached_at(&self) -> String {
        match (&self.address, &self.place) {
            (Some(address), _) => address.clone(),
            (None, Some(ssh)) => ssh.address(),
            (None, None) => self.name.clone(),
        }
    }
}

fn ssh(arguments: &Arguments, host: &Host) -> Result<Ssh, Failure> {
    let here = |error| Failure::new(Status::Other, "this program's own place cannot be found").because(error);
    let command: Vec<String> = arguments.ssh.split_whitespace().map(str::to_owned).collect();
    if command.is_empty() {
        return Err(Failure::configuration("`--ssh` names no program"));
    }
    Ok(Ssh {
        command,
        host: host.name.clone(),
        program: arguments.remote_program.clone().map_or_else(std::env::current_exe, Ok).map_err(here)?,
        directory: arguments.remote_directory.clone().map_or_else(std::env::current_dir, Ok).map_err(here)?,
    })
}

/// Variables as `--env` has them.
fn environment(given: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let variable = |text: &String| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        None => std::env::var(text).map(|value| (text.clone(), value)).map_err(|error| {
            Failure::configuration(format!("the variable `{text}` cannot be passed on")).because(error)
        }),
        Some(_) => Err(Failure::configuration(format!("`{text}` is not of the form NAME=VALUE"))),
    };
    given.iter().map(variable).collect()
}

/// The variables of this program, without those that each rank has for itself.
fn own_environment() -> impl Iterator<Item = (String, String)> {
    let is_own = |name: &str| {
        name.starts_with("MDT_") && ![JOB_ID, JOB_TOKEN].contains(&name) && !name.starts_with("MDT_LAUNCH")
    };
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(move |(name, _)| is_own(name))
}

/// Whether a host is this machine.
fn is_here(host: &str) -> bool {
    let own = sysinfo::System::host_name().unwrap_or_default();
    let name = without_user(host);
    // As another user it is reached like any other.
    name == host && (is_loopback(name) || (!own.is_empty() && name == own))
}

fn without_user(host: &str) -> &str {
    host.rsplit('@').next().unwrap_or(host)
}

fn is_loopback(address: &str) -> bool {
    address == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
