//! When a checkpoint is due, and what it is made of.

use mdt_plugin_api::HostView;
use serde_json::json;

use super::best::Evaluated;
use super::gradient::all_finite;
use super::optimizer::StateArray;
use super::{Run, agree, evaluate};
use crate::checkpoint::{Best, State};
use crate::exit::{Failure, Status};
use crate::metrics::Metrics;
use crate::model::Parameters;
use crate::storage::Array;

impl Run<'_> {
    /// Whether a checkpoint is due after this update.
    pub(super) fn save_due(&self) -> bool {
        let every = self.settings.checkpoint.save_steps;
        let is_best = self.evaluations.kept().is_some_and(|best| best.update == self.done);
        is_best || every > 0 && self.done.is_multiple_of(every)
    }

    /// Writes a checkpoint of the present update, unless there is one. All ranks call it and compare their weights; the
    /// first one writes.
    pub(super) fn save(&mut self) -> Result<(), Failure> {
        if self.saved == Some(self.done) {
            return Ok(());
        }
        let state = State {
            update: self.done,
            config: self.job.resolved.canonical(),
            data: self.fingerprint.clone(),
            components: self.components.clone(),
            metrics_bytes: self.metrics.as_ref().map_or(0, Metrics::bytes),
            progress: json!({ evaluate::PROGRESS: self.evaluations }),
        };
        let best = self.evaluations.kept().map(|Evaluated { update, eval_loss }| Best { update, eval_loss });
        let states = self.updater.arrays(&self.parameters);
        let states: Vec<_> =
            states.iter().map(|StateArray { name, shape, data }| Array { name, shape, data }).collect();
        with_arrays(&self.parameters, |parameters| {
            // A finite gradient can still have been multiplied by too large a rate.
            if let Some(array) = parameters.iter().find(|array| !all_finite(array.data)) {
                let message = format!("`{}` is not finite after update {}", array.name, self.done);
                return Err(Failure::new(Status::NonFinite, message)
                    .because("this update is not saved; earlier checkpoints are as they were")
                    .help("lower `optimizer.learning_rate`"));
            }
            let what = format!("the weights after update {}", self.done);
            agree::require_same_bits(&self.peers, &what, parameters.iter().map(|array| array.data))?;
            let store = self.store.as_ref();
            self.peers.on_first(&format!("the checkpoint of update {}", self.done), || {
                store.map_or(Ok(()), |store| store.save(&state, parameters, &states, best).map(drop))
            })
        })?;
        self.saved = Some(self.done);
        Ok(())
    }

    /// Writes a checkpoint for an interrupted job; the failure says how to go on.
    pub(super) fn interrupted(&mut self) -> Failure {
        self.progress.finish();
        match self.save() {
            Err(failure) => failure,
            Ok(()) => {
                let failure = Failure::new(Status::Interrupted, format!("interrupted after update {}", self.done));
                let failure = match &self.store {
                    Some(store) => failure.at(store.path(self.done).display()),
                    None => failure,
                };
                failure.help("run the same command again to go on from there")
            }
        }
    }
}

/// The parameters as arrays in host memory, for as long as `body` runs.
pub(super) fn with_arrays<T>(
    parameters: &Parameters,
    body: impl FnOnce(&[Array<'_>]) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let views: Vec<HostView<'_>> =
        parameters.tensors().iter().map(|tensor| tensor.host_view()).collect::<Result<_, _>>()?;
    let arrays: Vec<Array<'_>> = parameters
        .specs()
        .iter()
        .zip(&views)
        .map(|(spec, view)| Ok(Array { name: &spec.name, shape: &spec.shape, data: view.as_slice::<f32>()? }))
        .collect::<Result<_, mdt_plugin_api::Error>>()?;
    body(&arrays)
}
