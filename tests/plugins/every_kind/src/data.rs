//! A source of four rows, of which the last is unreadable.

use mdt_plugin_api::RowBatch;
use mdt_plugin_api::prelude::*;

use super::faults::Faults;
use super::recorder::Recorder;
use super::source::Source;

/// The source.
pub struct Numbers {
    faults: Faults,
    given: u64,
}

impl Component for Numbers {
    type Config = Faults;

    fn create(faults: Faults, setup: &Setup) -> Result<Self> {
        faults.at("create")?;
        setup.services.log(LogLevel::Info, &format!("a source of {:?}", setup.source));
        Ok(Self { faults, given: 0 })
    }
}

impl Drop for Numbers {
    fn drop(&mut self) {
        self.faults.panic_at("drop");
    }
}

impl DataSource for Numbers {
    fn length(&mut self) -> Result<Length> {
        self.faults.at("length")?;
        Ok(Length::Rows(4))
    }

    fn next(&mut self) -> Result<Option<Example>> {
        self.faults.at("next")?;
        self.given += 1;
        match self.given {
            1..4 => {
                let example = Example::new(self.given).with("number", self.given).with("text", "ä\0").with("real", 0.1);
                let list = vec![Datum::from(true), Datum::Null, Datum::from(vec![0u8, 255])];
                Ok(Some(example.with("list", list).with("messages", vec![Message::new("user", "2 + 2")])))
            }
            4 => Err(Error::input("unreadable").with("row", 4)),
            _ => Ok(None),
        }
    }

    fn state(&self) -> Result<String> {
        self.faults.at("state")?;
        Ok(self.given.to_string())
    }

    fn restore(&mut self, state: &str) -> Result<()> {
        self.faults.at("restore")?;
        self.given = state.parse().map_err(|_| Error::input(format!("{state:?} is no number of rows")))?;
        Ok(())
    }

    fn state_of(&mut self, row: u64) -> Result<Option<String>> {
        self.faults.at("state_of")?;
        Ok((row < 4).then(|| row.to_string()))
    }
}

/// The methods that may fail.
pub const METHODS: &[&str] = &["length", "state", "next", "restore", "state_of"];

/// Those of `data.places/1`.
pub const PLACES: &[&str] = &["state_of"];

/// Rows, and an error without its component, which the boundary adds.
fn shown(RowBatch { rows, error }: &RowBatch) -> String {
    format!("{rows:?} {:?}", error.as_ref().map(|error| (error.code(), error.message(), error.context())))
}

/// Calls each method.
pub fn exercise(recorder: &mut Recorder, source: &Source) {
    let (config, setup) = (recorder.config(), recorder.setup());
    let Some(mut rows) = recorder.make("create", |_| String::new(), || source.data(&config, &setup)) else { return };
    recorder.call("length", || rows.length());
    recorder.call("state", || rows.state());
    // Behind the boundary a row comes with the state after it.
    if !recorder.fails_in("state") {
        recorder.call("next", || rows.next());
    }
    for most in [1, 9, 9] {
        recorder.call_for("next", shown, || rows.batch(most));
    }
    for state in ["2", "two"] {
        recorder.call("restore", || rows.restore(state));
        recorder.call_for("next", shown, || rows.batch(9));
    }
    for row in [3, 4] {
        recorder.call("state_of", || rows.state_of(row));
    }
    recorder.drop("drop", rows);
}
