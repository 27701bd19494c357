//! The command line: one file per subcommand.

mod bench;
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
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{Args, Parser, Subcommand};

use crate::config::{Flag, Layers, Sources, process_environment};
use crate::exit::{Failure, Status};
use crate::job::Job;
use crate::plugins::{Catalog, tiers};
use crate::progress;
use crate::services::LocalServices;

/// Fine-tunes language models with MLX; every moving part is a plugin.
#[derive(Parser)]
#[command(name = "mdt-host", version, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Options of every subcommand.
#[derive(Args, Clone, Default)]
struct Common {
    /// A configuration file (TOML, YAML or JSON); later ones stand above earlier ones.
    #[arg(long, global = true, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Adds the tables under `profile.NAME` of the configuration files.
    #[arg(long, global = true, value_name = "NAME")]
    profile: Option<String>,
    /// Sets one key: `--set optimizer=lion`, `--set optimizer.learning_rate=3e-5`.
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// A directory with plugins, searched before all others.
    #[arg(long, global = true, value_name = "DIR")]
    plugin_dir: Vec<PathBuf>,
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
    let Cli { common, command } = Cli::parse_from(gather::gather(std::env::args_os()));
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
    match outcome.unwrap_or_else(|_| Err(internal())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            failure.status().into()
        }
    }
}

/// Keeps panic text off the terminal: a user gets one error, whatever happened.
fn quiet_panics() {
    panic::set_hook(Box::new(|info| {
        progress::debug(&info.to_string());
    }));
}

fn internal() -> Failure {
    Failure::new(Status::Other, "mdt-host has a bug and stopped; checkpoints already written are intact")
        .help("run it again with MDT_LOG=debug and report what it prints")
}

impl Common {
    fn layers(&self, flags: Vec<Flag>) -> Result<Layers, Failure> {
        Layers::read(&Sources {
            files: self.config.clone(),
            profile: self.profile.clone(),
            environment: process_environment()?,
            set: self.set.clone(),
            flags,
        })
    }

    /// The plugins in all tiers.
    fn catalog(&self, layers: &Layers) -> Result<Catalog, Failure> {
        let configured = layers.plugins()?;
        Catalog::scan(tiers(&self.plugin_dir, &configured.dirs), configured.lock.as_deref())
    }

    /// The job that the configuration describes.
    fn job(&self, flags: Vec<Flag>, cancelled: Arc<AtomicBool>) -> Result<Job, Failure> {
        let layers = self.layers(flags)?;
        let catalog = self.catalog(&layers)?;
        let resolved = layers.resolve(&catalog)?;
        Ok(Job::new(resolved, catalog, Arc::new(LocalServices::new(cancelled))))
    }
}

/// Runs `body` on the compute thread of a job, with the job's number of threads for host work.
fn on_compute_thread<T: Send>(job: &Job, body: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(Status::Other, "no thread can be started").because(error);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(job.threads()).thread_name(|n| format!("host-{n}"));
    pool.build_global().map_err(|error| failed(&error))?;
    std::thread::scope(|scope| {
        // Differentiation recurses through the graph of a deep model.
        let thread = std::thread::Builder::new().name("compute".to_owned()).stack_size(64 << 20);
        let handle = thread.spawn_scoped(scope, body).map_err(|error| failed(&error))?;
        handle.join().unwrap_or_else(|_| Err(internal()))
    })
}
