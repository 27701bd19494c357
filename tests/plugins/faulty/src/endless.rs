//! A data source without end.

use std::thread::sleep;
use std::time::Duration;

use mdt_plugin_api::prelude::*;

mdt_plugin_api::config! {
    /// Keys of the data source `endless`.
    pub struct Config {
        /// Milliseconds that a row takes.
        pause_ms: u64 = 0,
        /// The row at which it misbehaves; 0: never.
        misbehaves_at: u64 = 0,
        /// How: `spin`, `exit`, `abort` or `fault`.
        by: String = "spin".to_owned(),
    }
}

/// Gives the same row again and again.
pub struct Endless {
    config: Config,
    given: u64,
}

impl Component for Endless {
    type Config = Config;

    fn create(config: Config, setup: &Setup) -> Result<Self> {
        setup.services.log(LogLevel::Info, "the endless source is open");
        Ok(Self { config, given: 0 })
    }
}

impl DataSource for Endless {
    fn length(&mut self) -> Result<Length> {
        Ok(Length::Endless)
    }

    fn next(&mut self) -> Result<Option<Example>> {
        sleep(Duration::from_millis(self.config.pause_ms));
        self.given += 1;
        if self.given == self.config.misbehaves_at {
            crate::misbehave(&self.config.by);
        }
        Ok(Some(Example::new(self.given).with("prompt", "How many clips?").with("completion", " Seven.")))
    }

    fn state(&self) -> Result<String> {
        Ok(self.given.to_string())
    }

    fn restore(&mut self, state: &str) -> Result<()> {
        self.given = state.parse().map_err(|_| Error::input(format!("{state:?} is no number of rows")))?;
        Ok(())
    }
}
