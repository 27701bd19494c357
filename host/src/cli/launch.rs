//! `mdt-host launch`: all ranks of a job, on this machine or on the hosts of a file.

mod hosts;

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use self::hosts::{Seat, Seats};
use super::common::Common;
use crate::config::{Flag, Origin, Resolved, Resume, Settings};
use crate::counted::counted;
use crate::exit::{Failure, Status};
use crate::job::Job;
use crate::launchers::BACKEND;
use crate::rank_processes::{self, AGAIN, Rank, Restarts, StopRequests};
use crate::{progress, train};

#[derive(Args)]
pub(super) struct Arguments {
    /// Number of ranks; where absent `comm.world_size`, or else all slots of the hostfile.
    #[arg(short = 'n', long = "world-size", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    world_size: Option<u32>,
    /// How often the ranks are started again, from the last checkpoint, after one of them was killed or lost.
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_restarts: u32,
    /// The hosts that ranks run on: a line `HOST slots=N` for each as for Open MPI, or the JSON of mlx.launch. Program, job
    /// and data have the same paths on all of them.
    #[arg(long, value_name = "FILE")]
    hostfile: Option<PathBuf>,
    /// The command that reaches another host, with its options: `--ssh "ssh -p 2222 -i key"`.
    #[arg(long, value_name = "COMMAND", default_value = "ssh")]
    ssh: String,
    /// The path of mdt-host on other hosts; as here where absent.
    #[arg(long, value_name = "PATH")]
    remote_program: Option<PathBuf>,
    /// The working directory on other hosts; as here where absent.
    #[arg(long, value_name = "DIR")]
    remote_directory: Option<PathBuf>,
    /// A variable for all ranks, `NAME=VALUE`, or `NAME` with its value here. Those that begin with MDT_ reach all ranks
    /// without it.
    #[arg(long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
}

impl Arguments {
    /// Ranks on this machine, which are started once.
    pub(super) fn here(world_size: u32) -> Self {
        Self {
            world_size: Some(world_size),
            max_restarts: 0,
            hostfile: None,
            ssh: "ssh".to_owned(),
            remote_program: None,
            remote_directory: None,
            env: Vec::new(),
        }
    }
}

/// Checks the configuration once, then runs the job in one process per rank.
pub(super) fn run(common: &Common, arguments: &Arguments) -> Result<(), Failure> {
    let launch = Launch::prepare(common, arguments)?;
    launch.job.resolved.require_job()?;
    launch.start(&["run".into()])
}

/// How often ports in a row are looked for.
const ATTEMPTS: u32 = 100;

/// Keys with the values that `launch` sets.
type Keys = Vec<(&'static str, Value)>;

/// Where rank 0 listens.
#[derive(Debug, Clone, Copy)]
enum Port {
    /// Where the user says.
    Given,
    /// At a port of this machine that is free at each start.
    Free,
    /// On another machine, of which that is not known: at another one at each start, as the rank before may still be there.
    Counted,
}

/// A job and the processes that it will run in.
pub(super) struct Launch<'a> {
    common: &'a Common,
    /// The job of all ranks.
    job: Job,
    /// What `launch` sets beside the user's keys, for all starts and ranks.
    keys: Keys,
    /// Where each rank runs.
    seats: Seats,
    port: Port,
    /// Whether each rank has its share of the cores of its machine.
    shares_cores: bool,
    max_restarts: u32,
}

impl<'a> Launch<'a> {
    /// Resolves the configuration, and fills in what the user has left open.
    pub(super) fn prepare(common: &'a Common, arguments: &Arguments) -> Result<Self, Failure> {
        // A rank in a configuration file cannot be that of all processes.
        let mut keys = vec![("comm.rank", json!(0))];
        keys.extend(arguments.world_size.map(|world_size| ("comm.world_size", json!(world_size))));
        let mut layers = common.layers(flags(&keys))?;
        // Before keys of the backend are looked at.
        let is_several = arguments.hostfile.is_some() || arguments.world_size.is_some_and(|ranks| ranks > 1);
        if is_several && !layers.set("comm", "use") {
            keys.push(("comm.use", json!(BACKEND)));
            layers = common.layers(flags(&keys))?;
        }
        let catalog = common.catalog(&layers)?;
        let resolved = layers.resolve(&catalog)?;
        let seats = Seats::of(arguments, &resolved)?;
        if seats.len() != resolved.settings.comm.world_size as usize {
            keys.push(("comm.world_size", json!(seats.len())));
        }
        let Settings { comm, compute, .. } = &resolved.settings;
        if seats.len() > 1 && is_open(&resolved, "comm.use") {
            keys.push(("comm.use", json!(BACKEND)));
        }
        let mut address = comm.address.clone();
        if is_open(&resolved, "comm.address")
            && let Some(found) = seats.address()?
        {
            keys.push(("comm.address", json!(found)));
            address = found;
        }
        let port = match is_open(&resolved, "comm.port") && !comm.is_on_this_machine() {
            false => Port::Given,
            true if seats.meet_here(&address) => Port::Free,
            true => Port::Counted,
        };
        let shares_cores = compute.threads == 0;
        let resolved = common.layers(flags(&keys))?.resolve(&catalog)?;
        let job = Job { resolved, catalog: Arc::new(catalog), services: Arc::default() };
        Ok(Self { common, job, keys, seats, port, shares_cores, max_restarts: arguments.max_restarts })
    }

    /// Runs a command of this program in one process per rank; again after a rank was lost, as often as the user allows.
    pub(super) fn start(&self, command: &[OsString]) -> Result<(), Failure> {
        train::backend(&self.job)?;
        let Settings { comm, checkpoint, output_dir, .. } = &self.job.resolved.settings;
        let mut requests = StopRequests::new()?;
        let mut restarts = Restarts::new(self.max_restarts, output_dir.clone());
        let mut goes_on = false;
        for start in 0.. {
            let mut keys = self.keys.clone();
            let port = match self.port {
                Port::Given => comm.port,
                Port::Free => free_port(&comm.address, self.seats.len() as u16)?,
                Port::Counted => comm.port.saturating_add(start),
            };
            keys.push(("comm.port", json!(port)));
            // Whatever the job began with, it now goes on.
            if goes_on && checkpoint.resume != Resume::Auto {
                keys.push(("checkpoint.resume", json!("auto")));
            }
            progress::note(&format!(
                "launch   {} over {} at {}{}",
                self.seats,
                comm.id,
                comm.place_at(port),
                self.threads().map_or_else(String::new, |threads| format!(", {} each", counted(threads, "thread")))
            ));
            let seats = (0..).zip(&self.seats.0);
            let ranks: Vec<Rank> = seats.map(|(rank, seat)| self.rank(rank, seat, &keys, command, start > 0)).collect();
            let Err(failure) = rank_processes::run(&ranks, &mut requests) else { break };
            goes_on = restarts.after(failure, &mut requests)?.has_checkpoint;
        }
        Ok(())
    }

    /// The threads of each rank, where that is the same number everywhere.
    fn threads(&self) -> Option<usize> {
        match (self.shares_cores, self.seats.are_here()) {
            (false, _) => Some(self.job.threads()),
            (true, true) => Some(self.share(self.seats.len() as u32)),
            (true, false) => None,
        }
    }

    fn share(&self, ranks: u32) -> usize {
        (self.job.resolved.settings.compute.thread_count() / ranks as usize).max(1)
    }

    fn rank(&self, rank: u32, seat: &Seat, keys: &Keys, command: &[OsString], again: bool) -> Rank {
        let mut keys = keys.clone();
        let mut environment = seat.environment.clone();
        environment.extend(again.then(|| (AGAIN.to_owned(), "1".to_owned())));
        if self.shares_cores && seat.place.is_none() {
            keys.push(("compute.threads", json!(self.share(seat.ranks_there))));
        }
        Rank {
            arguments: command_line(self.common, &keys, command, rank),
            environment,
            place: seat.place.clone(),
            ranks_there: seat.ranks_there,
            shares_cores: self.shares_cores,
        }
    }
}

/// Whether the user has left a key to `launch`.
fn is_open(resolved: &Resolved, key: &str) -> bool {
    matches!(resolved.origin(key), None | Some(Origin::Default | Origin::Flat | Origin::Component(_)))
}

fn flags(keys: &[(&'static str, Value)]) -> Vec<Flag> {
    let flag = |(key, value): &(&'static str, Value)| Flag {
        name: "launch".to_owned(),
        key: (*key).to_owned(),
        value: value.clone(),
    };
    keys.iter().map(flag).collect()
}

/// A port on which no process listens now, nor on those behind it, one for each rank: some backends, such as MLX's ring, have
/// every rank listen.
fn free_port(address: &str, ranks: u16) -> Result<u16, Failure> {
    let is_free = |port| TcpListener::bind((address, port)).is_ok();
    let mut attempts = 0;
    loop {
        let port = TcpListener::bind((address, 0)).and_then(|listener| listener.local_addr()).map_err(|error| {
            Failure::new(Status::Peer, format!("no port of `{address}` can be opened"))
                .because(error)
                .help("`comm.address` is an address of this machine, such as 127.0.0.1")
        })?;
        let first = port.port();
        attempts += 1;
        // On a machine where so many are rarely free in a row, the first one is what most backends need.
        if attempts == ATTEMPTS || first.checked_add(ranks).is_some_and(|end| (first + 1..end).all(is_free)) {
            return Ok(first);
        }
    }
}

/// The arguments of one rank: those of this command, and the keys that `launch` sets.
fn command_line(common: &Common, keys: &Keys, command: &[OsString], rank: u32) -> Vec<OsString> {
    let mut line = command.to_vec();
    let mut option = |name: &str, value: OsString| line.extend([name.into(), value]);
    common.config.iter().for_each(|path| option("--config", path.into()));
    common.profile.iter().for_each(|name| option("--profile", name.into()));
    common.plugin_dir.iter().for_each(|path| option("--plugin-dir", path.into()));
    common.set.iter().for_each(|text| option("--set", text.into()));
    for (key, value) in keys {
        let value = if *key == "comm.rank" { json!(rank) } else { value.clone() };
        option("--set", format!("{key}={value}").into());
    }
    line.extend(common.trust_plugin_dirs.then(|| "--trust-plugin-dirs".into()));
    line.extend(common.force.then(|| "--force".into()));
    line
}
