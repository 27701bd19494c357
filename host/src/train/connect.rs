//! The comm backend of a job, and the connection with its other ranks.

use std::collections::BTreeMap;
use std::time::Duration;

use mdt_plugin_api::register::Connects;
use mdt_plugin_api::{Bootstrap, DeviceInfo, Dtype, Error};
use serde_json::json;
use sysinfo::System;

use crate::counted::counted;
use crate::exit::{Failure, Status};
use crate::job::Job;
use crate::launchers::{JOB_ID, JOB_TOKEN};
use crate::peers::Peers;
use crate::progress;
use crate::rank_processes::failed_rank;

/// The comm backend of a job, checked against what training needs.
pub fn backend(job: &Job) -> Result<Box<dyn Connects>, Failure> {
    let settings = &job.resolved.settings.comm;
    let backend = job.comm()?;
    let capabilities = backend.capabilities()?;
    for dtype in [Dtype::F32, Dtype::F64] {
        if !capabilities.dtypes.contains(&dtype) {
            let message = format!("the comm plugin `{}` does not reduce {dtype}, which training needs", settings.id);
            return Err(Failure::new(Status::Plugin, message));
        }
    }
    if capabilities.max_world_size > 0 && settings.world_size > capabilities.max_world_size {
        let message = format!(
            "`comm.world_size` is {}, and the comm plugin `{}` connects {} at most",
            settings.world_size, settings.id, capabilities.max_world_size
        );
        return Err(Failure::configuration(message).help("choose another backend: `--set comm.use=grpc`"));
    }
    Ok(backend)
}

/// Connects with the other ranks of the job. `device` is what this rank computes on, where it does.
pub(super) fn connect(job: &Job, backend: &dyn Connects, device: Option<&DeviceInfo>) -> Result<Peers, Failure> {
    let settings = &job.resolved.settings.comm;
    let mut values = BTreeMap::from([
        ("address".to_owned(), settings.address.clone()),
        ("port".to_owned(), settings.port.to_string()),
    ]);
    let started = job.resolved.started.as_ref();
    let token = std::env::var(JOB_TOKEN).ok().filter(|token| !token.is_empty());
    let token = token.or_else(|| started?.token().map(str::to_owned));
    let has_token = token.is_some();
    values.extend(token.map(|token| ("token".to_owned(), token)));
    // For the status that a backend may give to others.
    values.extend(System::host_name().map(|host| ("host".to_owned(), host)));
    values.extend(device.map(|device| ("device".to_owned(), json!(device).to_string())));
    let bootstrap = Bootstrap {
        rank: settings.rank,
        world_size: settings.world_size,
        job: std::env::var(JOB_ID).ok().or_else(|| started?.job.clone()).unwrap_or_default(),
        identity: job.resolved.identity(),
        values,
    };
    match settings.world_size - 1 {
        0 => {}
        others => progress::note(&format!(
            "waiting  for {} over {} at {}",
            counted(others as usize, "other rank"),
            settings.id,
            settings.place()
        )),
    }
    // Ranks that have not met cannot tell which of them has gone; whoever has started them can.
    let gone = |error: Error| {
        // The launcher's own way to hand a token to its ranks is more help than the backend can give.
        let needs_token =
            !has_token && error.context().iter().any(|(key, value)| key == "key" && value.ends_with("token_file"));
        let failure = failed_rank().into_iter().fold(Failure::from(error), Failure::because);
        match started.filter(|_| needs_token) {
            Some(started) => failure.help(started.token_help()),
            None => failure,
        }
    };
    let timeout = Duration::from_secs_f64(settings.timeout_s);
    let peers = Peers::new(backend.open(&bootstrap).map_err(gone)?, &settings.id, timeout);
    Ok(peers.summing(backend.capabilities()?.dtypes))
}
