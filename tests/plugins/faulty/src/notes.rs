//! An observer that notes what it is told, and misbehaves where its configuration says so.

use std::fs::File;
use std::io::Write;
use std::thread::sleep;
use std::time::Duration;

use mdt_plugin_api::prelude::*;
use mdt_plugin_api::serde_json;

mdt_plugin_api::config! {
    /// Keys of the observer `notes`.
    pub struct NotesConfig {
        /// The file to which each observation is written, as a line of JSON.
        file: Option<String> = None,
        /// Milliseconds that an observation takes.
        pause_ms: u64 = 0,
        /// The update at which it fails.
        fails_at: u64 = 0,
        /// The update at which it panics.
        panics_at: u64 = 0,
        /// The update from which it does not come back.
        spins_at: u64 = 0,
        /// The update at which a thread of its own panics.
        thread_panics_at: u64 = 0,
        /// Whether it panics while it is dropped.
        panics_when_dropped: bool = false,
    }
}

/// The observer.
pub struct Notes {
    config: NotesConfig,
    file: Option<File>,
}

impl Component for Notes {
    type Config = NotesConfig;

    fn create(config: NotesConfig, _setup: &Setup) -> Result<Self> {
        let failed = |error: std::io::Error| Error::config("the file of notes cannot be created").caused_by(error);
        let file = config.file.as_ref().map(File::create).transpose().map_err(failed)?;
        Ok(Self { config, file })
    }
}

impl Observer for Notes {
    fn observe(&mut self, observation: &Observation) -> Result<()> {
        sleep(Duration::from_millis(self.config.pause_ms));
        if let Event::Updated(metrics) = &observation.event {
            if metrics.update == self.config.fails_at {
                return Err(Error::other("the dashboard is gone"));
            }
            assert!(metrics.update != self.config.panics_at, "this number is too much for me");
            if metrics.update == self.config.thread_panics_at {
                let thread = std::thread::spawn(|| panic!("nobody is with me"));
                assert!(thread.join().is_err());
            }
            if metrics.update == self.config.spins_at {
                crate::spin();
            }
        }
        if let Some(file) = &mut self.file {
            let line = serde_json::to_string(observation).map_err(|error| Error::other(error.to_string()))?;
            writeln!(file, "{line}").map_err(|error| Error::other(error.to_string()))?;
        }
        Ok(())
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        assert!(!self.config.panics_when_dropped, "not without my notes");
    }
}
