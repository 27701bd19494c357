//! What a run writes: checkpoints, the final model, the picture of the loss.

use mdt_plugin_api::HostView;
use serde_json::json;

use super::best::Evaluated;
use super::{Run, agree, evaluate};
use crate::checkpoint::{Best, Checkpoint, State, copy_elements};
use crate::config::Exported;
use crate::exit::{Failure, Status};
use crate::export::Export;
use crate::gradient::all_finite;
use crate::metrics::{self, Metrics};
use crate::model::Parameters;
use crate::progress;
use crate::storage::Array;
use crate::update::StateArray;

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

    /// Writes the final model and the picture of the loss, on the first rank.
    pub(super) fn export(&mut self) -> Result<(), Failure> {
        let Some(store) = &self.store else { return Ok(()) };
        let output = &self.settings.output_dir;
        let tied = !self.parameters.specs().iter().any(|spec| spec.name == "lm_head.weight");
        let (source, config) = (self.directory.path(), self.directory.config());
        let write =
            |parameters: &[Array<'_>]| Export { source, config, tie_word_embeddings: tied, parameters }.write(output);
        let best = match self.settings.checkpoint.export {
            Exported::Last => None,
            Exported::Best => Some(self.evaluations.best.ok_or_else(no_best)?),
        };
        let model = match best {
            Some(best) if best.update != self.done => {
                let checkpoint = Checkpoint::open(&store.path(best.update)).map_err(|failure| {
                    failure.because("it is the best one, which `checkpoint.export` asks for").help(EXPORT_LAST)
                })?;
                let memory = self.fold.buffer(self.parameters.elements());
                with_checkpoint(&checkpoint, &self.parameters, memory, write)?
            }
            _ => with_arrays(&self.parameters, write)?,
        };
        let curve = metrics::read_losses(&output.join(metrics::FILE))?;
        let picture = metrics::write_picture(output, &format!("Loss of {}", output.display()), &curve)?;
        let which = best.map_or(String::new(), |Evaluated { update, eval_loss }| {
            format!(" (the best: held-out loss {eval_loss:.4} after update {update})")
        });
        progress::note(&format!("wrote {}{which} and {}", model.display(), picture.display()));
        Ok(())
    }
}

const EXPORT_LAST: &str = "export the last weights: run the same command with `--set checkpoint.export=last`";

fn no_best() -> Failure {
    Failure::new(Status::Storage, "no evaluation had a finite loss, so there is no best checkpoint to export")
        .help(EXPORT_LAST)
}

/// The parameters of a checkpoint as arrays in `memory`, which has room for all, for as long as `body` runs.
fn with_checkpoint<T>(
    checkpoint: &Checkpoint,
    parameters: &Parameters,
    mut memory: Vec<f32>,
    body: impl FnOnce(&[Array<'_>]) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let tensors = checkpoint.parameters()?;
    let expected: Vec<_> = parameters.specs().iter().map(|spec| (spec.name.as_str(), spec.shape.as_slice())).collect();
    let mut rest = memory.as_mut_slice();
    let mut arrays = Vec::with_capacity(expected.len());
    for (&(name, shape), from) in expected.iter().zip(tensors.arrays(&expected)?) {
        let (data, behind) = rest.split_at_mut(shape.iter().product());
        copy_elements(from, data);
        arrays.push(Array { name, shape, data });
        rest = behind;
    }
    body(&arrays)
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
