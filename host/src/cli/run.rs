//! `mdt-host run`: train the configured model.

use super::common::{Common, on_compute_thread};
use crate::exit::Failure;
use crate::{progress, rank_processes, signals, train};

pub(super) fn run(common: &Common) -> Result<(), Failure> {
    let cancelled = signals::cancellation()?;
    let launched = rank_processes::is_launched();
    if launched {
        rank_processes::stop_with_the_launcher();
    }
    let job = common.job(Vec::new(), cancelled.clone())?;
    let comm = &job.resolved.settings.comm;
    if comm.rank > 0 {
        progress::quiet();
        if !launched {
            let (rank, world_size) = (comm.rank, comm.world_size);
            progress::tell(&format!(
                "rank {rank} of {world_size}: connects to the others at {}:{}; rank 0 shows the progress",
                comm.address, comm.port
            ));
        }
    }
    for file in &job.resolved.flat_files {
        let file = file.display();
        progress::note(&format!("{file} is a flat file: keys that nothing sets have the defaults of flat files"));
    }
    for dropped in &job.resolved.dropped {
        progress::note(&dropped.to_string());
    }
    on_compute_thread(&job, || train::train(&job, common.force, &cancelled))?;
    Ok(())
}
