//! The comm backend of a job, and the connection with its other ranks.

use std::time::Duration;

use mdt_plugin_api::{Bootstrap, CommBackend, Dtype};

use crate::counted::counted;
use crate::exit::{Failure, Status};
use crate::job::Job;
use crate::peers::Peers;
use crate::progress;

/// The comm backend of a job, checked against what training needs.
pub fn backend(job: &Job) -> Result<Box<dyn CommBackend>, Failure> {
    let settings = &job.resolved.settings.comm;
    let backend = job.comm()?;
    let capabilities = backend.capabilities();
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

/// Connects with the other ranks of the job.
pub(super) fn connect(job: &Job, backend: &dyn CommBackend) -> Result<Peers, Failure> {
    let settings = &job.resolved.settings.comm;
    let bootstrap = Bootstrap {
        rank: settings.rank,
        world_size: settings.world_size,
        address: settings.address.clone(),
        port: settings.port,
        job: job.resolved.identity(),
    };
    match settings.world_size - 1 {
        0 => {}
        others => progress::note(&format!(
            "waiting  for {} over {} at {}:{}",
            counted(others as usize, "other rank"),
            settings.id,
            settings.address,
            settings.port
        )),
    }
    Ok(Peers::new(backend.open(&bootstrap)?, Duration::from_secs_f64(settings.timeout_s)))
}
