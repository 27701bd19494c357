//! What the checks examine: the configuration and the plugins, as far as they can be read.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Finding;
use crate::config::Layers;
use crate::data;
use crate::exit::Failure;
use crate::job::Job;
use crate::launchers::Started;
use crate::plugins::{Catalog, tiers};

/// What the checks examine. If one part cannot be read, the checks of the others still work.
pub struct Subject {
    /// Why the configuration cannot be used.
    configuration: Option<Failure>,
    reached: Reached,
}

/// How much could be read.
enum Reached {
    Job(Box<Job>),
    Plugins(Catalog),
    Nothing(Failure),
}

impl Subject {
    /// Reads as much as possible.
    pub fn new(layers: Result<Layers, Failure>, plugin_dirs: &[PathBuf], trust_plugin_dirs: bool) -> Self {
        let configured = layers.as_ref().map_err(Failure::clone).and_then(Layers::plugins);
        let plugins = configured.clone().unwrap_or_default();
        let catalog = match Catalog::scan(tiers(plugin_dirs, &plugins, trust_plugin_dirs), plugins.lock.as_deref()) {
            Ok(catalog) => catalog,
            Err(failure) => return Self { configuration: configured.err(), reached: Reached::Nothing(failure) },
        };
        match layers.and_then(|layers| layers.resolve(&catalog)) {
            Ok(mut resolved) => {
                if let Err(failure) = data::expand(&mut resolved, &catalog, &|| false) {
                    return Self { configuration: Some(failure), reached: Reached::Plugins(catalog) };
                }
                let job = Job { resolved, catalog: Arc::new(catalog), services: Arc::default() };
                Self { configuration: None, reached: Reached::Job(Box::new(job)) }
            }
            Err(failure) => Self { configuration: Some(failure), reached: Reached::Plugins(catalog) },
        }
    }

    /// Why the configuration cannot be used, if it cannot.
    pub(super) fn configuration(&self) -> Option<&Failure> {
        self.configuration.as_ref()
    }

    /// The plugins, or why there are none.
    pub(super) fn catalog(&self) -> Result<&Catalog, &Failure> {
        match &self.reached {
            Reached::Job(job) => Ok(&job.catalog),
            Reached::Plugins(catalog) => Ok(catalog),
            Reached::Nothing(failure) => Err(failure),
        }
    }

    /// Whether there is a job that can be checked.
    pub fn has_job(&self) -> bool {
        matches!(self.reached, Reached::Job(_))
    }

    /// How long a call into a plugin may take.
    pub fn timeout(&self) -> Option<Duration> {
        match &self.reached {
            Reached::Job(job) => job.resolved.settings.plugins.timeout(),
            _ => None,
        }
    }

    /// What a launcher has told this process, if there is a job.
    pub(super) fn started(&self) -> Option<Started> {
        match &self.reached {
            Reached::Job(job) => job.resolved.started.clone(),
            _ => None,
        }
    }

    /// The findings of a check of the configured job; without a job it is skipped.
    pub(super) fn of_job(&self, examine: impl FnOnce(&Job) -> Vec<Finding>) -> Vec<Finding> {
        match &self.reached {
            Reached::Job(job) => examine(job),
            _ => vec![Finding::skipped("it needs a configuration without errors, and plugins that load")],
        }
    }
}
