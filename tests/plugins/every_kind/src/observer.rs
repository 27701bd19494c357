//! An observer that logs what it is told.

use mdt_plugin_api::prelude::*;
use mdt_plugin_api::serde_json::json;
use mdt_plugin_api::{Metrics, Sample, Started, Written};

use super::faults::Faults;
use super::recorder::Recorder;
use super::source::Source;

/// The observer.
pub struct Listener {
    faults: Faults,
    services: Services,
}

impl Component for Listener {
    type Config = Faults;

    fn create(faults: Faults, setup: &Setup) -> Result<Self> {
        faults.at("create")?;
        Ok(Self { faults, services: setup.services.clone() })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.faults.panic_at("drop");
    }
}

impl Observer for Listener {
    fn observe(&mut self, observation: &Observation) -> Result<()> {
        self.faults.at("observe")?;
        self.services.log(LogLevel::Info, &format!("{observation:?}"));
        Ok(())
    }
}

/// The methods that may fail.
pub const METHODS: &[&str] = &["observe"];

/// Tells it of each event.
pub fn exercise(recorder: &mut Recorder, source: &Source) {
    let (config, setup) = (recorder.config(), recorder.setup());
    let Some(mut observer) = recorder.make("create", |_| String::new(), || source.observer(&config, &setup)) else {
        return;
    };
    let metrics = Metrics { update: 2, values: [("loss".to_owned(), 2.5), ("norm".to_owned(), f64::NAN)].into() };
    let written = Written { update: 2, directory: "out".to_owned(), files: vec!["a".to_owned(), "b".to_owned()] };
    let started = Started {
        configuration: json!({ "seed": 7 }),
        output_dir: "out".to_owned(),
        components: vec!["optimizer lion 1.0.0".to_owned()],
        updates_done: 1,
        updates_planned: 9,
        rank: 0,
        world_size: 2,
    };
    for event in [
        Event::Started(started),
        Event::Updated(metrics.clone()),
        Event::Evaluated(metrics.clone()),
        Event::Sampled(Sample { update: 2, evaluation: true, prompt: "2 + 2".to_owned(), answer: "4".to_owned() }),
        Event::StoppedEarly(metrics),
        Event::CheckpointWritten(written.clone()),
        Event::FinalWritten(written),
        Event::Finished,
        Event::Interrupted,
        Event::Failed { message: "no more".to_owned() },
        Event::Unknown,
    ] {
        let observation = Observation { unix_time_s: 1.5, event };
        recorder.call("observe", || observer.observe(&observation));
    }
    recorder.drop("drop", observer);
}
