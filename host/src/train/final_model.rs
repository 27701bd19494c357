//! What a finished run leaves behind: the final model and the picture of the loss.

use mdt_plugin_api::{Event, HostServices, ModelSpec};
use serde_json::{Map, Value};

use super::update::Learner;
use super::{Run, observe};
use crate::checkpoint::{Checkpoint, Evaluated, copy_elements};
use crate::config::{Exported, Init};
use crate::exit::{Failure, Status};
use crate::export::Export;
use crate::fuse::Merged;
use crate::metrics;
use crate::model::{OWN, Parameters, WrittenAdapter, as_stored};
use crate::progress;
use crate::storage::{Array, TypedArray};

impl Run<'_> {
    /// Writes the final model and the picture of the loss, on the first rank. All ranks call it.
    pub(super) fn export(&mut self) -> Result<(), Failure> {
        let best = match self.job.resolved.settings.checkpoint.export {
            Exported::Last => None,
            Exported::Best => Some(self.evaluations.best.ok_or_else(no_best)?),
        };
        let Some(store) = &self.output.store else {
            if best.is_none_or(|best| best.update == self.done) && self.learner.layout.is_sharded() {
                // The first rank needs this one's part of the weights for evaluation.
                self.learner.with_evaluation_weights(&self.peers, self.done, |_| Ok(()))?;
            }
            return Ok(());
        };
        let output = &self.settings().output_dir;
        let (job, checkpoint, help) = (self.job, store.path(self.done), self.how_to_continue());
        let described = self.learner.objective.model.clone();
        let adapter = self.learner.objective.adapter.clone();
        let ModelSpec { config, parameters: specs, .. } = described.spec();
        let learner = &mut self.learner;
        let (source, tokenizer, types) = (&self.model, &self.tokenizer_files, &self.types);
        let cancelled = || job.services.cancelled();
        let packing = job.quantize(&self.model)?;
        // An adapter is written without its model, unless nobody else has that.
        let whole = adapter.is_none();
        let base = match &adapter {
            Some(adapter) if job.resolved.settings.model.init == Init::Random => Some((adapter, job.model(source)?)),
            _ => None,
        };
        let export = |config: &Map<String, Value>,
                      parameters: &[Array<'_>],
                      quantised: &[TypedArray<'_>],
                      adapter: Option<&WrittenAdapter>| {
            let export =
                Export { source, tokenizer, config, parameters, specs, quantised, types, packing, adapter, card: None };
            export.write(output, &cancelled).map_err(|failure| match failure.status() {
                Status::Interrupted => failure.at(checkpoint.display()).help(help),
                _ => failure,
            })
        };
        let write = |trained: &[Array<'_>], frozen: &[Array<'_>], quantised: &[TypedArray<'_>]| {
            let adapter = adapter
                .as_ref()
                .map(|adapter| adapter.written(described.spec(), &source.place(), &as_stored(specs, trained)));
            export(config, &[trained, frozen].concat(), quantised, adapter.as_ref())
        };
        let write_all = |parameters: &Parameters| {
            let Some((adapter, base)) = &base else { return with_all_arrays(parameters, whole, write) };
            let merged = Merged::of(adapter, base.spec(), parameters)?;
            parameters.with_arrays(|trained| {
                let of_trainer = trained.iter().filter(|array| array.name.starts_with(OWN)).copied();
                let of_trainer: Vec<_> = of_trainer.collect();
                merged
                    .parameters
                    .with_frozen_arrays(|of_model| export(&merged.config, &[of_model, &of_trainer].concat(), &[], None))
            })
        };
        let peers = &self.peers;
        let model = match best {
            Some(best) if best.update != self.done => {
                let checkpoint = Checkpoint::open(&store.path(best.update)).map_err(|failure| {
                    failure.because("it is the best one, which `checkpoint.export` asks for").help(EXPORT_LAST)
                })?;
                if learner.optimizer.has_evaluation_weights() || base.is_some() {
                    learner.restore(&checkpoint)?;
                    learner.with_evaluation_weights(peers, best.update, |learner| write_all(&learner.parameters))?
                } else {
                    let Learner { parameters, accumulator, .. } = learner;
                    let memory = accumulator.buffer(parameters.elements());
                    with_frozen_arrays(parameters, whole, |frozen, quantised| {
                        with_checkpoint(&checkpoint, parameters, memory, |trained| write(trained, frozen, quantised))
                    })?
                }
            }
            _ => learner.with_evaluation_weights(peers, self.done, |learner| write_all(&learner.parameters))?,
        };
        let picture = metrics::read_losses(&output.join(metrics::FILE))
            .and_then(|curve| metrics::write_picture(output, &format!("Loss of {}", output.display()), &curve));
        // The model is written, so the run has succeeded even if the picture fails.
        let and_picture = match picture {
            Ok(picture) => format!(" and {}", picture.display()),
            Err(failure) => {
                progress::note(&format!("warning: {} was not drawn: {}", metrics::PICTURE, failure.in_one_line()));
                String::new()
            }
        };
        let which = best.map_or(String::new(), |Evaluated { update, eval_loss }| {
            format!(" (the best: held-out loss {eval_loss:.4} after update {update})")
        });
        progress::note(&format!("wrote {}{which}{and_picture}", model.display()));
        self.output.observers.tell(|| Event::FinalWritten(observe::written(self.done, &model)));
        Ok(())
    }
}

const EXPORT_LAST: &str = "export the last weights: run the same command with `--set checkpoint.export=last`";

fn no_best() -> Failure {
    Failure::new(Status::Storage, "no evaluation had a finite loss, so there is no best checkpoint to export")
        .help(EXPORT_LAST)
}

/// The parameters that are trained, and, of the `whole` model, those that are not and those that are quantised, as arrays for as long
/// as `body` runs.
fn with_all_arrays<T>(
    parameters: &Parameters,
    whole: bool,
    body: impl FnOnce(&[Array<'_>], &[Array<'_>], &[TypedArray<'_>]) -> Result<T, Failure>,
) -> Result<T, Failure> {
    with_frozen_arrays(parameters, whole, |frozen, quantised| {
        parameters.with_arrays(|trained| body(trained, frozen, quantised))
    })
}

/// The same without those that are trained.
fn with_frozen_arrays<T>(
    parameters: &Parameters,
    whole: bool,
    body: impl FnOnce(&[Array<'_>], &[TypedArray<'_>]) -> Result<T, Failure>,
) -> Result<T, Failure> {
    match whole {
        true => parameters
            .with_frozen_arrays(|frozen| parameters.with_quantised_arrays(|quantised| body(frozen, quantised))),
        false => body(&[], &[]),
    }
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
