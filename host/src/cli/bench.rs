//! `mdt-host bench`: benchmarks.

use clap::{Args, Subcommand};
use serde_json::json;

use super::common::{Common, on_compute_thread};
use super::output::print;
use crate::exit::Failure;
use crate::signals;
use crate::train::bench;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Measure full updates of the configured model on random tokens.
    Train(Train),
}

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
    let Command::Train(arguments) = command;
    let job = common.job(Vec::new(), signals::cancellation()?)?;
    let figures = on_compute_thread(&job, || bench::train(&job, arguments.tokens as usize, arguments.steps))?;
    if arguments.json { print(json!(figures)) } else { print(figures) }
}
