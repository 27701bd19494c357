//! How far training has come: the observer `job_status` hears of it, and the job's status has it from there.
//!
//! A host tells its observers of the run, and backends only of collectives. Both are components of one library, so what one
//! hears the other can tell: `observers = ["job_status"]`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use mdt_plugin_api::prelude::*;
use mdt_plugin_api::{Event, Observation};

use super::contract::Training;

/// The training of this process, of which there is one.
static TRAINING: Mutex<Option<Training>> = Mutex::new(None);

fn training() -> MutexGuard<'static, Option<Training>> {
    TRAINING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How far training has come, where the observer is told.
pub(super) fn so_far() -> Option<Training> {
    *training()
}

mdt_plugin_api::config! {
    /// The observer `job_status` has no keys: `comm.status_port` is where clients ask.
    pub struct NoKeys {}
}

/// The observer `job_status`.
pub struct JobStatusObserver;

impl Component for JobStatusObserver {
    type Config = NoKeys;

    fn create(_: NoKeys, _: &Setup) -> Result<Self> {
        Ok(Self)
    }
}

impl Observer for JobStatusObserver {
    fn observe(&mut self, observation: &Observation) -> Result<()> {
        let mut known = training();
        match &observation.event {
            Event::Started(started) => {
                let (update, updates) = (started.updates_done, started.updates_planned);
                *known = Some(Training { update, updates, ..Training::default() });
            }
            Event::Updated(metrics) => {
                if let Some(training) = known.as_mut() {
                    let number = |name: &str| metrics.values.get(name).copied();
                    training.update = metrics.update;
                    training.loss = number("loss");
                    training.learning_rate = number("lr");
                    training.tokens_per_second = number("tokens_per_s");
                }
            }
            Event::Evaluated(metrics) => {
                if let Some(training) = known.as_mut() {
                    training.evaluation_loss = metrics.values.get("eval_loss").copied();
                }
            }
            _ => {}
        }
        Ok(())
    }
}
