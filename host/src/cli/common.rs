//! What every subcommand shares: its options, the job that they describe, and the thread that computes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use serde_json::{Value, json};

use crate::config::{Flag, Init, Layers, Model, Sources, process_environment};
use crate::data;
use crate::exit::{Failure, Status};
use crate::hub;
use crate::job::Job;
use crate::launchers::Variables;
use crate::plugins::{Catalog, tiers};
use crate::services::LocalServices;
use crate::watchdog;

/// The options of every subcommand.
#[derive(Args, Clone, Default)]
pub(super) struct Common {
    /// A configuration file (TOML, YAML or JSON); later files override earlier ones.
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Vec<PathBuf>,
    /// Apply the tables under `profile.NAME` of the configuration files.
    #[arg(long, global = true, value_name = "NAME")]
    pub(super) profile: Option<String>,
    /// Set one key: `--set optimizer=lion`, `--set optimizer.learning_rate=3e-5`.
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
    /// A directory of plugins, searched before all others.
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) plugin_dir: Vec<PathBuf>,
    /// Load plugins from directories that only a configuration file names (`plugins.dirs`).
    #[arg(long, global = true)]
    pub(super) trust_plugin_dirs: bool,
    /// Begin although the job seems not to fit into memory.
    #[arg(long, global = true)]
    pub(super) force: bool,
}

impl Common {
    /// The configuration of a command that is no rank of a job.
    pub(super) fn layers(&self, flags: Vec<Flag>) -> Result<Layers, Failure> {
        self.read(flags, None)
    }

    /// The configuration of a rank: also what a launcher has told this process.
    pub(super) fn layers_of_rank(&self) -> Result<Layers, Failure> {
        self.read(Vec::new(), Some(Variables::of_this_process()))
    }

    fn read(&self, flags: Vec<Flag>, launcher: Option<Variables>) -> Result<Layers, Failure> {
        Layers::read(&Sources {
            launcher,
            files: self.config.clone(),
            profile: self.profile.clone(),
            environment: process_environment()?,
            set: self.set.clone(),
            flags,
        })
    }

    /// The plugins in all tiers.
    pub(super) fn catalog(&self, layers: &Layers) -> Result<Catalog, Failure> {
        let configured = layers.plugins()?;
        Catalog::scan(tiers(&self.plugin_dir, &configured, self.trust_plugin_dirs), configured.lock.as_deref())
    }

    /// The job that the configuration describes.
    pub(super) fn job(&self, flags: Vec<Flag>, cancelled: Arc<AtomicBool>) -> Result<Job, Failure> {
        self.job_of(&|| self.layers(flags.clone()), cancelled)
    }

    /// The job of which this process is a rank.
    pub(super) fn job_of_rank(&self, cancelled: Arc<AtomicBool>) -> Result<Job, Failure> {
        self.job_of(&|| self.layers_of_rank(), cancelled)
    }

    fn job_of(&self, read: &dyn Fn() -> Result<Layers, Failure>, cancelled: Arc<AtomicBool>) -> Result<Job, Failure> {
        let layers = read()?;
        let catalog = self.catalog(&layers)?;
        let mut resolved = layers.resolve(&catalog)?;
        let interrupted = || cancelled.load(Ordering::Relaxed);
        let Model { path, name, revision, init, .. } = &resolved.settings.model;
        if let (None, Some(name)) = (path, name.as_ref().filter(|name| hub::is_name(name))) {
            let wanted = hub::Wanted::Model { weights: *init == Init::Pretrained };
            hub::snapshot(hub::Kind::Model, name, revision.as_deref(), &wanted, &interrupted)?;
            // Now its `config.json` says which component it needs, and its record how it was trained.
            resolved = read()?.resolve(&catalog)?;
        }
        data::expand(&mut resolved, &catalog, &interrupted)?;
        Ok(Job { resolved, catalog: Arc::new(catalog), services: Arc::new(LocalServices::new(cancelled)) })
    }
}

/// The option `--adapter DIR`: it takes the place of the configured adapter, whose other keys it has itself, and of what else is
/// trained.
pub(super) fn adapter_flags(directory: &Path) -> Vec<Flag> {
    let keys = [
        ("model.adapter", Value::Null),
        ("model.adapter", json!({ "path": directory })),
        ("model.freeze", json!([])),
        ("model.train", Value::Null),
    ];
    let flag = |(key, value): (&str, Value)| Flag { name: "--adapter".to_owned(), key: key.to_owned(), value };
    keys.into_iter().map(flag).collect()
}

/// Runs `body` on the compute thread of a job, with the job's number of threads for host work and under the watchdog.
pub(super) fn on_compute_thread<T: Send>(
    job: &Job,
    body: impl FnOnce() -> Result<T, Failure> + Send,
) -> Result<T, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(Status::Other, "no thread can be started").because(error);
    watchdog::start(job.resolved.settings.plugins.timeout())?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(job.threads()).thread_name(|n| format!("host-{n}"));
    pool.build_global().map_err(|error| failed(&error))?;
    std::thread::scope(|scope| {
        // Differentiation recurses through the graph of a deep model.
        let thread = std::thread::Builder::new().name("compute".to_owned()).stack_size(64 << 20);
        let handle = thread.spawn_scoped(scope, body).map_err(|error| failed(&error))?;
        handle.join().unwrap_or_else(|_| Err(Failure::internal()))
    })
}
