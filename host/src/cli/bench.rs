//! `mdt-host bench`: benchmarks.

use std::ffi::OsString;
use std::fmt;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;

use super::common::{Common, on_compute_thread};
use super::launch::{self, Launch};
use super::output::print;
use crate::exit::Failure;
use crate::job::Job;
use crate::train::bench::collectives::{self, Collective};
use crate::train::bench::{self, Request};
use crate::{launchers, progress, rank_processes, signals};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Measure full updates of the configured model on random tokens.
    Train(Train),
    /// Measure the optimizer alone: updates of all weights, beside a plain pass over the same bytes.
    Optimizer(Times),
    /// Measure how fast the training rows are read, rendered and tokenized.
    Data(Data),
    /// Measure how long the model's weights take to load.
    Load(Times),
    /// Measure answers to random prompts.
    Generate(Generate),
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

#[derive(Args)]
pub(super) struct Times {
    /// Number of measured times; one more goes first.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    times: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Data {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Generate {
    /// Number of prompts that are answered together.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,
    /// Tokens of each prompt.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    prompt_tokens: u32,
    /// Tokens of each answer.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(2..))]
    max_tokens: u32,
    #[command(flatten)]
    times: Times,
}

pub(super) fn run(common: &Common, command: &Command) -> Result<(), Failure> {
    match command {
        Command::Train(Train { tokens, steps, json }) => {
            show(common, *json, |job| bench::train(job, *tokens as usize, *steps, common.force))
        }
        Command::Optimizer(Times { times, json }) => show(common, *json, |job| bench::optimizer(job, *times)),
        Command::Data(Data { json }) => show(common, *json, bench::data),
        Command::Load(Times { times, json }) => show(common, *json, |job| bench::load(job, *times)),
        Command::Generate(Generate { batch_size, prompt_tokens, max_tokens, times: Times { times, json } }) => {
            let [batch_size, prompt, answer] = [batch_size, prompt_tokens, max_tokens].map(|&number| number as usize);
            let request = Request { batch_size, prompt, answer };
            show(common, *json, |job| bench::generate(job, request, *times, common.force))
        }
        Command::AllReduce(arguments) => measure(common, arguments, Collective::AllReduce),
        Command::ReduceScatter(arguments) => measure(common, arguments, Collective::ReduceScatter),
        Command::AllGather(arguments) => measure(common, arguments, Collective::AllGather),
    }
}

/// Prints the figures of the configured job.
fn show<F: Serialize + fmt::Display + Send>(
    common: &Common,
    json: bool,
    measured: impl FnOnce(&Job) -> Result<F, Failure> + Send,
) -> Result<(), Failure> {
    let job = common.job(Vec::new(), signals::cancellation()?)?;
    let figures = on_compute_thread(&job, || measured(&job))?;
    if json { print(json!(figures)) } else { print(figures) }
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
    let figures = collectives::measure(&job, collective, sizes, times)?;
    match job.resolved.settings.comm.rank {
        0 if *json => print(json!(figures)),
        0 => print(figures),
        _ => Ok(()),
    }
}
