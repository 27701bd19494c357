//! The services of the host for plugins: log, metrics, cancellation.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::{Error, Result, SharedTokenizer};

/// The importance of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum LogLevel {
    /// For the developers of the plugin.
    Debug = 1,
    /// For every user.
    Info = 2,
    /// Something is wrong, and the job continues.
    Warn = 3,
}

/// The host's services. Any thread.
pub trait HostServices: Send + Sync {
    /// A line for the user's log.
    fn log(&self, level: LogLevel, message: &str);

    /// A number for the next line of metrics.jsonl. The line has the mean of all numbers of this name that plugins have
    /// reported since the line before, on all ranks; null where that is not finite.
    fn metric(&self, name: &str, value: f64);

    /// Whether the job is being cancelled: long work should return soon, with an error.
    fn cancelled(&self) -> bool;
}

/// A handle to the host's services that a component may keep.
#[derive(Clone)]
pub struct Services(Arc<dyn HostServices>);

impl Services {
    /// Services of this host.
    pub fn new(host: Arc<dyn HostServices>) -> Self {
        Self(host)
    }
}

impl std::ops::Deref for Services {
    type Target = dyn HostServices;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Services")
    }
}

/// What a component is given when it is created, beside its own configuration.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The host's services.
    pub services: Services,
    /// The job's seed.
    pub seed: u64,
    /// How many threads the component may use; at least 1. Its results are the same for any number: ranks and runs of one job
    /// may have different ones.
    pub threads: usize,
    /// The model's directory, with `config.json` and the tokenizer's files; for models, tokenizers and trainers.
    pub model_path: Option<PathBuf>,
    /// The model's `config.json`; null for components of other kinds.
    pub model_config: serde_json::Value,
    /// The job's tokenizer; lent to trainers.
    pub tokenizer: Option<SharedTokenizer>,
    /// Where a data source reads: a file, a directory, a name. Empty for other kinds.
    pub source: String,
    /// The most tokens of a sequence, at which the host cuts at the right; for trainers that would rather cut elsewhere.
    pub max_seq_len: usize,
}

impl Setup {
    /// The job's tokenizer.
    ///
    /// # Errors
    /// None was lent.
    pub fn tokenizer(&self) -> Result<&SharedTokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| Error::plugin("the component needs a tokenizer, and none was lent to it"))
    }
}

/// Outside of a host, for a component's own tests and benchmarks: nothing is logged or kept, one thread, no model.
impl Default for Setup {
    fn default() -> Self {
        Self {
            services: Services::new(Arc::new(NoHost)),
            seed: 0,
            threads: 1,
            model_path: None,
            model_config: serde_json::Value::Null,
            tokenizer: None,
            source: String::new(),
            max_seq_len: usize::MAX,
        }
    }
}

/// The services where there is no host.
struct NoHost;

impl HostServices for NoHost {
    fn log(&self, _level: LogLevel, _message: &str) {}

    fn metric(&self, _name: &str, _value: f64) {}

    fn cancelled(&self) -> bool {
        false
    }
}
