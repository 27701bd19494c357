//! `mdt-host run`: train the configured model.

use super::common::{Common, on_compute_thread};
use crate::exit::Failure;
use crate::launchers::{self, Variables};
use crate::{progress, rank_processes, signals, train};

pub(super) fn run(common: &Common) -> Result<(), Failure> {
    let cancelled = signals::cancellation()?;
    let launched = rank_processes::is_launched();
    if launched {
        rank_processes::stop_with_the_launcher();
    }
    let job = common.job_of_rank(cancelled.clone())?;
    launchers::require_address(&job.resolved)?;
    let comm = &job.resolved.settings.comm;
    let started = job.resolved.started.as_ref();
    if comm.rank > 0 {
        progress::quiet();
        if !launched {
            let (rank, world_size) = (comm.rank, comm.world_size);
            let by = started.map_or_else(String::new, |started| format!(", started by {}", started.launcher));
            progress::tell(&format!(
                "rank {rank} of {world_size}{by}: connects to the others at {}:{}; rank 0 shows the progress",
                comm.address, comm.port
            ));
        }
    }
    match started {
        Some(started) => progress::note(&format!("started  by {started}")),
        None if !launched && comm.world_size == 1 => {
            let no_rank = launchers::no_rank(&Variables::of_this_process());
            no_rank.iter().for_each(|why| progress::note(why));
        }
        None => {}
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
