//! `mdt-host bench`: benchmarks.

use std::ffi::OsString;

use clap::{Args, Subcommand};
use serde_json::json;

use super::common::{Common, on_compute_thread};
use super::launch::{self, Launch};
use super::output::print;
use crate::exit::Failure;
use crate::train::bench;
use crate::train::bench_collectives::{self, Collective};
use crate::{launchers, progress, rank_processes, signals};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Measure full updates of the configured model on random tokens.
    Train(Train),
    /// Measure sums over ranks on this machine, by the configured backend or over grpc.
    AllReduce(Ranks),
    /// Measure sums of which every rank gets a part.
    ReduceScatter(Ranks),
    /// Measure how long every rank takes to get the parts of all.
    AllGather(Ranks),
}

#[derive(Args)]
pub(super) struct Ranks {
    /// Number of ranks that are started here: 2 by default. Under `mpirun`, `srun` and other launchers theirs are measured.
    #[arg(short = 'n', long = "world-size", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    world_size: Option<u32>,
    /// Bytes of a buffer, of all ranks together in all-gather. It may be given several times.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(4..=1 << 34))]
    bytes: Vec<u64>,
    /// Number of measured calls of each size; by default more for small ones.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    times: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// The ranks that are started where no number is given.
const RANKS: u32 = 2;

/// The sizes that are measured where none is given: 1 KiB to 256 MiB.
const SIZES: [usize; 6] = [1 << 10, 64 << 10, 1 << 20, 16 << 20, 64 << 20, 256 << 20];

#[derive(Args)]
pub(super) struct Train {
    /// Tokens of a row; an update has `trainer.batch_size` rows per micro-batch.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(2..))]
    tokens: u32,
    /// Number of measured updates; one more goes first.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(common: &Common, command: &Command) -> Result<(), Failure> {
    let arguments = match command {
        Command::Train(arguments) => arguments,
        Command::AllReduce(arguments) => return measure(common, arguments, Collective::AllReduce),
        Command::ReduceScatter(arguments) => return measure(common, arguments, Collective::ReduceScatter),
        Command::AllGather(arguments) => return measure(common, arguments, Collective::AllGather),
    };
    let job = common.job(Vec::new(), signals::cancellation()?)?;
    let figures =
        on_compute_thread(&job, || bench::train(&job, arguments.tokens as usize, arguments.steps, common.force))?;
    if arguments.json { print(json!(figures)) } else { print(figures) }
}

/// Whether `mpirun`, `srun` or another launcher has started this process as one of several ranks.
///
/// # Errors
/// The user wants another number of ranks.
fn is_rank_of_another_launcher(common: &Common, wanted: Option<u32>) -> Result<bool, Failure> {
    let layers = common.layers_of_rank()?;
    let Some(started) = layers.started() else { return Ok(false) };
    let ranks = started.world_size.as_ref().map(|size| size.value);
    match (ranks, wanted) {
        (Some(ranks @ 2..), Some(wanted)) if wanted != ranks => {
            let message = format!("{} has started {ranks} ranks, and {wanted} are to be measured", started.launcher);
            Err(Failure::configuration(message).help("leave `-n` to the launcher"))
        }
        _ => Ok(ranks != Some(1)),
    }
}

/// Starts the ranks, or is one of them, which this program or another launcher has started.
fn measure(common: &Common, arguments: &Ranks, collective: Collective) -> Result<(), Failure> {
    let Ranks { world_size, bytes, times, json } = arguments;
    let is_launched = rank_processes::is_launched();
    if !is_launched && !is_rank_of_another_launcher(common, *world_size)? {
        let launch = Launch::prepare(common, &launch::Arguments::here(world_size.unwrap_or(RANKS)))?;
        let name = collective.name().replace('_', "-");
        let mut command: Vec<OsString> = vec!["bench".into(), name.into()];
        command.extend(bytes.iter().flat_map(|bytes| ["--bytes".into(), bytes.to_string().into()]));
        command.extend(times.iter().flat_map(|times| ["--times".into(), times.to_string().into()]));
        command.extend(json.then(|| "--json".into()));
        return launch.start(&command);
    }
    if is_launched {
        rank_processes::stop_with_the_launcher();
    }
    progress::quiet();
    let job = common.job_of_rank(signals::cancellation()?)?;
    launchers::require_address(&job.resolved)?;
    let sizes: Vec<usize> = bytes.iter().map(|&bytes| bytes as usize).collect();
    let (sizes, times) = (if sizes.is_empty() { &SIZES[..] } else { &sizes }, times.map(|times| times as usize));
    let figures = bench_collectives::measure(&job, collective, sizes, times)?;
    match job.resolved.settings.comm.rank {
        0 if *json => print(json!(figures)),
        0 => print(figures),
        _ => Ok(()),
    }
}
