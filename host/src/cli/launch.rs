//! `mdt-host launch`: all ranks of a job on this machine.

use std::ffi::OsString;
use std::net::TcpListener;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use super::common::Common;
use crate::config::{Flag, Origin, Resolved, Settings};
use crate::counted::counted;
use crate::exit::{Failure, Status};
use crate::job::Job;
use crate::{progress, rank_processes, train};

#[derive(Args)]
pub(super) struct Arguments {
    /// Number of ranks; `comm.world_size` where absent.
    #[arg(short = 'n', long = "world-size", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    world_size: Option<u32>,
}

/// Checks the configuration once, then runs the job in one process per rank.
pub(super) fn run(common: &Common, arguments: &Arguments) -> Result<(), Failure> {
    let (job, keys) = prepare(common, arguments.world_size)?;
    job.resolved.require_job()?;
    start(common, &job, &keys, &["run".into()])
}

/// Keys with the values that `launch` sets.
pub(super) type Keys = Vec<(&'static str, Value)>;

/// The job of all ranks, and the keys that it sets beside the user's.
pub(super) fn prepare(common: &Common, world_size: Option<u32>) -> Result<(Job, Keys), Failure> {
    // A rank in a configuration file cannot be that of all processes.
    let mut keys = vec![("comm.rank", json!(0))];
    keys.extend(world_size.map(|world_size| ("comm.world_size", json!(world_size))));
    let layers = common.layers(flags(&keys))?;
    let catalog = common.catalog(&layers)?;
    keys.extend(left_open(&layers.resolve(&catalog)?)?);
    let resolved = common.layers(flags(&keys))?.resolve(&catalog)?;
    Ok((Job { resolved, catalog: Arc::new(catalog), services: Arc::default() }, keys))
}

/// Runs a command of this program in one process per rank.
pub(super) fn start(common: &Common, job: &Job, keys: &Keys, command: &[OsString]) -> Result<(), Failure> {
    train::backend(job)?;
    let comm = &job.resolved.settings.comm;
    let (ranks, threads) = (comm.world_size, job.threads());
    progress::note(&format!(
        "launch   {} here over {} at {}:{}, {} each",
        counted(ranks as usize, "rank"),
        comm.id,
        comm.address,
        comm.port,
        counted(threads, "thread")
    ));
    rank_processes::run((0..ranks).map(|rank| command_line(common, keys, command, rank)))
}

/// Values for what the user has not set: the backend that connects processes, a free port, and each rank's share of the
/// cores.
fn left_open(resolved: &Resolved) -> Result<Keys, Failure> {
    let Settings { comm, compute, .. } = &resolved.settings;
    let is_open = |key| matches!(resolved.origin(key), None | Some(Origin::Default | Origin::Component(_)));
    let mut keys = Vec::new();
    if comm.world_size > 1 && is_open("comm.use") {
        keys.push(("comm.use", json!("grpc")));
    }
    if is_open("comm.port") {
        keys.push(("comm.port", json!(free_port(&comm.address)?)));
    }
    if compute.threads == 0 {
        let each = compute.thread_count() / comm.world_size as usize;
        keys.push(("compute.threads", json!(each.max(1))));
    }
    Ok(keys)
}

fn flags(keys: &[(&'static str, Value)]) -> Vec<Flag> {
    let flag = |(key, value): &(&'static str, Value)| Flag {
        name: "launch".to_owned(),
        key: (*key).to_owned(),
        value: value.clone(),
    };
    keys.iter().map(flag).collect()
}

/// A port on which no process listens now.
fn free_port(address: &str) -> Result<u16, Failure> {
    let port = TcpListener::bind((address, 0)).and_then(|listener| listener.local_addr());
    port.map(|place| place.port()).map_err(|error| {
        Failure::new(Status::Peer, format!("no port of `{address}` can be opened"))
            .because(error)
            .help("`comm.address` is an address of this machine, such as 127.0.0.1")
    })
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
