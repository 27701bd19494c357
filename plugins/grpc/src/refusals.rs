//! What the log says of processes that were turned away: they themselves are told nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use mdt_plugin_api::{LogLevel, Services};

use crate::fault::named;

/// Counts processes that were turned away, and tells the user of them in few lines.
#[derive(Default)]
pub(crate) struct Refusals {
    count: AtomicU64,
    /// Whether the user was warned: a stranger could fill the output with more warnings.
    warned: AtomicBool,
}

impl Refusals {
    /// Notes a process that may be a rank of this job which is configured wrongly.
    pub(crate) fn warn(&self, services: &Services, message: &str) {
        self.count.fetch_add(1, Relaxed);
        let level = if self.warned.swap(true, Relaxed) { LogLevel::Debug } else { LogLevel::Warn };
        services.log(level, message);
    }

    /// Notes a process that is no rank.
    pub(crate) fn note(&self, services: &Services, message: &str) {
        self.count.fetch_add(1, Relaxed);
        services.log(LogLevel::Debug, message);
    }

    /// Says how many there were, if there were any, when no more are let in.
    pub(crate) fn sum_up(&self, services: &Services, rank: u32) {
        match self.count.swap(0, Relaxed) {
            0 => {}
            1 => services.log(LogLevel::Info, &format!("{} has turned away 1 connection", named(&[rank]))),
            count => services.log(LogLevel::Info, &format!("{} has turned away {count} connections", named(&[rank]))),
        }
    }
}
