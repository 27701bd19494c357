//! The command line: one file per subcommand.

mod bench;
mod common;
mod config;
mod data;
mod doctor;
mod gather;
mod generate;
mod launch;
mod output;
mod plugin;
mod run;

use std::panic;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{Parser, Subcommand};

use self::common::Common;
use crate::exit::Failure;
use crate::progress;

/// Fine-tunes language models with MLX; every moving part is a plugin.
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
    /// Runs the job (the same as no subcommand).
    Run,
    /// Runs all ranks of the job on this machine.
    Launch(launch::Arguments),
    /// Shows what a job is configured to, or checks it.
    #[command(subcommand)]
    Config(config::Command),
    /// Shows the plugins.
    #[command(subcommand)]
    Plugin(plugin::Command),
    /// Shows what training sees of the data.
    #[command(subcommand)]
    Data(data::Command),
    /// Continues a prompt, or answers the rows of a data set.
    Generate(generate::Arguments),
    /// Looks whether this machine is ready for a job: devices, memory, plugins, ports, disk, launchers.
    Doctor(doctor::Arguments),
    /// Measures.
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
    let outcome = panic::catch_unwind(|| match command.unwrap_or(Command::Run) {
        Command::Run => run::run(&common),
        Command::Launch(arguments) => launch::run(&common, &arguments),
        Command::Config(command) => config::run(&common, &command),
        Command::Plugin(command) => plugin::run(&common, &command),
        Command::Data(command) => data::run(&common, &command),
        Command::Generate(arguments) => generate::run(&common, &arguments),
        Command::Doctor(arguments) => doctor::run(&common, &arguments),
        Command::Bench(command) => bench::run(&common, &command),
    });
    match outcome.unwrap_or_else(|_| Err(Failure::internal())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failed(&failure),
    }
}

fn failed(failure: &Failure) -> ExitCode {
    progress::tell(&failure.to_string());
    failure.status().into()
}

/// Prints what is wrong with the command line. A configuration file that stands where no file belongs is not a
/// misspelt subcommand.
fn refused(error: &clap::Error) -> ExitCode {
    let argument =
        [ContextKind::InvalidSubcommand, ContextKind::InvalidArg].into_iter().find_map(|kind| error.get(kind));
    if let Some(ContextValue::String(argument)) = argument
        && [".toml", ".yaml", ".yml", ".json"].iter().any(|extension| argument.ends_with(extension))
    {
        let failure =
            Failure::configuration(format!("`{argument}` is a file, where a subcommand or an option is expected"));
        return failed(&failure.help(format!("write `mdt-host --config {argument}`")));
    }
    // That it cannot be printed is told by the status all the same.
    let _ = error.print();
    ExitCode::from(error.exit_code() as u8)
}

/// Keeps panic text off the terminal: a user gets one error, whatever happened.
fn quiet_panics() {
    panic::set_hook(Box::new(|info| {
        progress::debug(&info.to_string());
    }));
}
