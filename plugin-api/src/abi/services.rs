//! Host services and a component's setup across the boundary.

use std::path::PathBuf;
use std::sync::Arc;

use abi_stable::std_types::RStr;
use serde::{Deserialize, Serialize};

use super::guard::{Guarded, Owner};
use super::object::{AnyThread, Imported, RawObject, exports};
use super::table::interfaces;
use super::tokenizer;
use crate::{Error, HostServices, LogLevel, Result, Services, Setup, SharedTokenizer};

interfaces! {
    /// What the host does for every component. Any thread.
    "host.services/1" HostFunctions ServiceFunctions {
        /// [`HostServices::log`].
        fn write_log(level: u32, message: RStr<'_>);
        /// [`HostServices::metric`].
        fn report_metric(name: RStr<'_>, value: f64);
        /// [`HostServices::cancelled`].
        fn is_cancelled(cancelled: &mut bool);
    }
}
exports! { Services: HostFunctions; }
// SAFETY: `HostServices` is `Send + Sync`.
unsafe impl AnyThread for HostFunctions {}

impl ServiceFunctions for Services {
    fn write_log(&self, level: u32, message: RStr<'_>) -> Result<()> {
        let level = match level {
            1 => LogLevel::Debug,
            2 => LogLevel::Info,
            _ => LogLevel::Warn,
        };
        self.log(level, message.as_str());
        Ok(())
    }

    fn report_metric(&self, name: RStr<'_>, value: f64) -> Result<()> {
        self.metric(name.as_str(), value);
        Ok(())
    }

    fn is_cancelled(&self, cancelled: &mut bool) -> Result<()> {
        *cancelled = self.cancelled();
        Ok(())
    }
}

/// A service that fails has nobody to tell: these calls give no error.
impl HostServices for Imported<HostFunctions> {
    fn log(&self, level: LogLevel, message: &str) {
        let _ = self.write_log(level as u32, message.into());
    }

    fn metric(&self, name: &str, value: f64) {
        let _ = self.report_metric(name.into(), value);
    }

    fn cancelled(&self) -> bool {
        let mut cancelled = true;
        let _ = self.is_cancelled(&mut cancelled);
        cancelled
    }
}

/// [`Setup`] without its services and tokenizer, which cross as objects.
#[derive(Serialize, Deserialize)]
pub(super) struct SetupRecord {
    seed: u64,
    threads: usize,
    model_path: Option<String>,
    model_config: serde_json::Value,
    source: String,
    max_seq_len: u64,
}

impl SetupRecord {
    pub(super) fn export(setup: &Setup) -> Result<(Self, [RawObject; 2])> {
        let text = |path: &PathBuf| match path.to_str() {
            Some(text) => Ok(text.to_owned()),
            None => Err(Error::config(format!("the path {} is not valid UTF-8", path.display()))),
        };
        let record = Self {
            seed: setup.seed,
            threads: setup.threads,
            model_path: setup.model_path.as_ref().map(text).transpose()?,
            model_config: setup.model_config.clone(),
            source: setup.source.clone(),
            max_seq_len: setup.max_seq_len as u64,
        };
        let services = RawObject::new(Guarded::new(setup.services.clone(), Owner::named("host services")));
        let lent =
            |tokenizer: &SharedTokenizer| tokenizer::export(tokenizer.shared(), || Owner::named("host tokenizer"));
        Ok((record, [services, setup.tokenizer.as_ref().map(lent).unwrap_or_default()]))
    }

    pub(super) fn import(self, services: RawObject, tokenizer: RawObject) -> Result<Setup> {
        let tokenizer = tokenizer::import_lent(tokenizer, "host tokenizer")?;
        Ok(Setup {
            services: Services::new(Arc::new(Imported::<HostFunctions>::of(services, "host services")?)),
            seed: self.seed,
            threads: self.threads,
            model_path: self.model_path.map(PathBuf::from),
            model_config: self.model_config,
            tokenizer: tokenizer.map(SharedTokenizer::new).transpose()?,
            source: self.source,
            max_seq_len: usize::try_from(self.max_seq_len).unwrap_or(usize::MAX),
        })
    }
}
