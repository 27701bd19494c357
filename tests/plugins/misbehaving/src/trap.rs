//! The call that misbehaves, and how.

use std::sync::atomic::{AtomicU64, Ordering};

use mdt_plugin_api::prelude::*;

mdt_plugin_api::config! {
    /// Keys of all components here.
    pub struct Keys {
        /// The file of the plugin whose component of this kind does the work.
        library: String = String::new(),
        /// The method that misbehaves.
        method: String = String::new(),
        /// The number of its call that does.
        call: u64 = 1,
        /// How: `panic`, `exit`, `_exit`, `abort`, `fault`, `spin`, or `log`, which tells the host so without end.
        by: String = "panic".to_owned(),
    }
}

/// Misbehaves in one call.
#[derive(Clone)]
pub struct Trap {
    keys: Keys,
    services: Services,
    calls: std::sync::Arc<AtomicU64>,
}

unsafe extern "C" {
    fn _exit(status: i32) -> !;
}

impl Trap {
    /// A trap for the whole component.
    pub fn new(keys: Keys, services: Services) -> Self {
        Self { keys, services, calls: std::sync::Arc::default() }
    }

    /// What each method begins with.
    pub fn at(&self, method: &str) {
        if self.keys.method != method || self.calls.fetch_add(1, Ordering::Relaxed) + 1 != self.keys.call {
            return;
        }
        match self.keys.by.as_str() {
            "exit" => std::process::exit(0),
            // SAFETY: it ends the process, as the test wants, without what the host has registered for that.
            "_exit" => unsafe { _exit(0) },
            "abort" => std::process::abort(),
            "fault" => {
                // SAFETY: none; this is the fault that the test wants.
                unsafe { std::ptr::null_mut::<u64>().wrapping_add(1).write_volatile(1) };
            }
            "spin" => loop {
                std::hint::spin_loop();
            },
            "log" => loop {
                self.services.log(LogLevel::Debug, "still here");
            },
            _ => panic!("{method} misbehaves"),
        }
    }
}
