//! The services that the host offers to plugins: log, metrics, cancellation.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mdt_plugin_api::{HostServices, LogLevel};

/// The services of one process.
#[derive(Default)]
pub struct LocalServices {
    cancelled: Arc<AtomicBool>,
    metrics: Mutex<Vec<(String, f64)>>,
}

impl LocalServices {
    /// Services that read this flag for [`HostServices::cancelled`].
    pub fn new(cancelled: Arc<AtomicBool>) -> Self {
        Self { cancelled, ..Self::default() }
    }

    /// The metrics that plugins of this process have reported since the last call.
    pub fn take_metrics(&self) -> Vec<(String, f64)> {
        std::mem::take(&mut *self.metrics.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl HostServices for LocalServices {
    fn log(&self, level: LogLevel, message: &str) {
        match level {
            LogLevel::Debug => crate::progress::debug(message),
            LogLevel::Info => crate::progress::note(message),
            LogLevel::Warn => crate::progress::note(&format!("warning: {message}")),
        }
    }

    fn metric(&self, name: &str, value: f64) {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner).push((name.to_owned(), value));
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}
