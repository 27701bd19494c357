//! Host services and a component's setup across the boundary.

use std::path::PathBuf;
use std::sync::Arc;

use abi_stable::std_types::{RArc, ROption, RResult, RSlice, RStr, RString, RVec};
use abi_stable::{StableAbi, sabi_trait, sabi_trait::TD_Opaque};

use super::guard::{Guard, Owner};
use super::types::{RawError, plain};
use crate::{Error, HostServices, LogLevel, Result, Services, Setup};

/// [`HostServices`] with a stable layout.
#[sabi_trait]
pub trait RawServices: Send + Sync {
    /// [`HostServices::log`].
    fn log(&self, level: u32, message: RStr<'_>);
    /// [`HostServices::metric`].
    fn metric(&self, name: RStr<'_>, value: f64);
    /// [`HostServices::put`].
    fn put(&self, key: RStr<'_>, value: RSlice<'_, u8>) -> RResult<(), RawError>;
    /// [`HostServices::get`].
    fn get(&self, key: RStr<'_>) -> RResult<ROption<RVec<u8>>, RawError>;
    /// [`HostServices::cancelled`].
    #[sabi(last_prefix_field)]
    fn cancelled(&self) -> bool;
}

type ServicesObject = RawServices_TO<'static, RArc<()>>;

/// [`Setup`].
#[repr(C)]
#[derive(StableAbi)]
pub struct RawSetup {
    services: ServicesObject,
    seed: u64,
    threads: usize,
    model_path: ROption<RString>,
    model_config: RString,
    source: RString,
}

struct Exported {
    services: Services,
    guard: Guard,
}

impl RawServices for Exported {
    fn log(&self, level: u32, message: RStr<'_>) {
        let level = match level {
            1 => LogLevel::Debug,
            2 => LogLevel::Info,
            _ => LogLevel::Warn,
        };
        self.guard.call_or((), || self.services.log(level, message.as_str()));
    }

    fn metric(&self, name: RStr<'_>, value: f64) {
        self.guard.call_or((), || self.services.metric(name.as_str(), value));
    }

    fn put(&self, key: RStr<'_>, value: RSlice<'_, u8>) -> RResult<(), RawError> {
        self.guard.call(|| self.services.put(key.as_str(), value.as_slice()))
    }

    fn get(&self, key: RStr<'_>) -> RResult<ROption<RVec<u8>>, RawError> {
        self.guard.call(|| Ok(self.services.get(key.as_str())?.map(RVec::from).into()))
    }

    fn cancelled(&self) -> bool {
        self.guard.call_or(true, || self.services.cancelled())
    }
}

struct Loaded(ServicesObject);

impl HostServices for Loaded {
    fn log(&self, level: LogLevel, message: &str) {
        self.0.log(level as u32, message.into());
    }

    fn metric(&self, name: &str, value: f64) {
        self.0.metric(name.into(), value);
    }

    fn put(&self, key: &str, value: &[u8]) -> Result<()> {
        plain(self.0.put(key.into(), value.into()))
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        Ok(plain(self.0.get(key.into()))?.into_option().map(Vec::from))
    }

    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}

impl RawSetup {
    pub(crate) fn export(setup: &Setup) -> Result<Self> {
        let model_path = match &setup.model_path {
            None => None,
            Some(path) => Some(
                path.to_str()
                    .ok_or_else(|| Error::config(format!("the path {} is not valid UTF-8", path.display())))?,
            ),
        };
        let services = Exported { services: setup.services.clone(), guard: Guard::new(Owner::named("host services")) };
        Ok(Self {
            services: RawServices_TO::from_ptr(RArc::new(services), TD_Opaque),
            seed: setup.seed,
            threads: setup.threads,
            model_path: model_path.map(RString::from).into(),
            model_config: setup.model_config.to_string().into(),
            source: setup.source.as_str().into(),
        })
    }

    pub(crate) fn import(self) -> Result<Setup> {
        Ok(Setup {
            services: Services::new(Arc::new(Loaded(self.services))),
            seed: self.seed,
            threads: self.threads,
            model_path: self.model_path.into_option().map(|path| PathBuf::from(String::from(path))),
            model_config: serde_json::from_str(&self.model_config).map_err(|error| {
                Error::plugin(format!("the host sent a model configuration that is no JSON: {error}"))
            })?,
            source: self.source.into(),
        })
    }
}
