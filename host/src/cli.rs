//! The command line: one file per subcommand.

mod bench;
mod certs;
mod chat;
mod child;
mod common;
mod config;
mod data;
mod doctor;
mod evaluate;
mod export;
mod fuse;
mod gather;
mod generate;
mod launch;
mod launched_rank;
mod model_options;
mod output;
mod plugin;
mod push;
mod run;
mod sampling;

use std::panic;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{Parser, Subcommand};

use self::common::Common;
use crate::exit::Failure;
use crate::unexpected_end;
use crate::{progress, rank_processes};

/// Fine-tune language models with MLX; every moving part is a plugin.
#[derive(Parser)]
#[command(name = "mdt-host", version, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the job (the same as no subcommand).
    Run,
    /// Run all ranks of the job, on this machine or on several over ssh.
    Launch(launch::Arguments),
    /// Run a rank for `launch` on another machine, which tells what to do over standard input.
    #[command(hide = true)]
    LaunchedRank,
    /// Show or check the configuration of a job.
    #[command(subcommand)]
    Config(config::Command),
    /// List the plugins and show their keys.
    #[command(subcommand)]
    Plugin(plugin::Command),
    /// Show how rows are rendered, tokenized and masked.
    #[command(subcommand)]
    Data(data::Command),
    /// Continue a prompt, or answer the rows of a data set.
    Generate(generate::Arguments),
    /// Talk with a model.
    Chat(chat::Arguments),
    /// Show the held-out loss of a model or a checkpoint, without training.
    Evaluate(evaluate::Arguments),
    /// Merge an adapter into its model.
    Fuse(fuse::Arguments),
    /// Write a model, a checkpoint or an adapter with its model for transformers or mlx-lm.
    Export(export::Arguments),
    /// Upload a model to the Hugging Face Hub.
    Push(push::Arguments),
    /// Make certificates for encrypted connections between machines.
    #[command(subcommand)]
    Certs(certs::Command),
    /// Check that this machine is ready for a job: device, memory, plugins, port, model, data, disk, launchers.
    Doctor(doctor::Arguments),
    /// Run benchmarks.
    #[command(subcommand)]
    Bench(bench::Command),
}

/// Runs the command of this process.
pub fn main() -> ExitCode {
    let Cli { common, command } = match Cli::try_parse_from(gather::gather(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => return refused(&error),
    };
    quiet_panics();
    unexpected_end::report();
    let outcome = panic::catch_unwind(|| match command.unwrap_or(Command::Run) {
        Command::Run => run::run(&common),
        Command::Launch(arguments) => launch::run(&common, &arguments),
        Command::LaunchedRank => launched_rank::run(),
        Command::Config(command) => config::run(&common, &command),
        Command::Plugin(command) => plugin::run(&common, &command),
        Command::Data(command) => data::run(&common, &command),
        Command::Generate(arguments) => generate::run(&common, &arguments),
        Command::Chat(arguments) => chat::run(&common, &arguments),
        Command::Evaluate(arguments) => evaluate::run(&common, &arguments),
        Command::Fuse(arguments) => fuse::run(&common, &arguments),
        Command::Export(arguments) => export::run(&common, &arguments),
        Command::Push(arguments) => push::run(&arguments),
        Command::Certs(command) => certs::run(&command),
        Command::Doctor(arguments) => doctor::run(&common, &arguments),
        Command::Bench(command) => bench::run(&common, &command),
    });
    unexpected_end::expected();
    match outcome.unwrap_or_else(|_| Err(Failure::internal())) {
        Ok(()) if rank_processes::is_launched() => ExitCode::from(rank_processes::DONE),
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failed(&failure),
    }
}

fn failed(failure: &Failure) -> ExitCode {
    progress::tell(&failure.to_string());
    ExitCode::from(failure.status().code())
}

/// Prints what is wrong with the command line. A configuration file without `--config` before it is not a misspelt
/// subcommand.
fn refused(error: &clap::Error) -> ExitCode {
    let argument =
        [ContextKind::InvalidSubcommand, ContextKind::InvalidArg].into_iter().find_map(|kind| error.get(kind));
    if let Some(ContextValue::String(argument)) = argument
        && [".toml", ".yaml", ".yml", ".json"].iter().any(|extension| argument.to_lowercase().ends_with(extension))
    {
        let failure =
            Failure::configuration(format!("`{argument}` is a file, where a subcommand or an option is expected"));
        return failed(&failure.help(format!("write `mdt-host --config {argument}`")));
    }
    if error.use_stderr() {
        progress::tell(error.render().to_string().trim_end());
    } else {
        // Help and versions. If they cannot be printed, nobody reads them.
        let _ = error.print();
    }
    ExitCode::from(error.exit_code() as u8)
}

/// Keeps panic messages off the terminal: the user gets one error.
fn quiet_panics() {
    panic::set_hook(Box::new(|info| {
        progress::debug(&info.to_string());
    }));
}
