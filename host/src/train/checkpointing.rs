//! When a checkpoint is due, and what it is made of.

use std::thread::{self, JoinHandle};

use mdt_plugin_api::Event;
use serde_json::json;

use super::optimizer::OwnState;
use super::run::Output;
use super::stop::Stop;
use super::update::Learner;
use super::{Run, agree, evaluate, observe, optimizer, shards, start};
use crate::checkpoint::{Saving, State};
use crate::config::{OnBadRow, Resume};
use crate::exit::{Failure, Status};
use crate::finite::all_finite;
use crate::metrics::Metrics;
use crate::model::Adapter;
use crate::progress;
use crate::storage::Array;
use crate::training_format;

/// A checkpoint that goes to the disk while training goes on.
pub(super) struct Unfinished {
    update: u64,
    /// The thread that waits for the disk, on the first rank, until its outcome was taken.
    disk: Option<JoinHandle<Result<(), Failure>>>,
}

impl Unfinished {
    fn start(update: u64, saving: Option<Saving>) -> Result<Self, Failure> {
        let start = |saving: Saving| thread::Builder::new().name("checkpoint".to_owned()).spawn(|| saving.finish());
        let disk = saving.map(start).transpose().map_err(|error| {
            Failure::new(Status::Storage, "no thread can be started for the checkpoint").because(error)
        })?;
        Ok(Self { update, disk })
    }
}

impl Run<'_> {
    /// Whether a checkpoint is due after this update.
    pub(super) fn save_due(&self) -> bool {
        let every = self.settings().checkpoint.save_steps;
        let is_best = self.evaluations.best_kept().is_some_and(|best| best.update == self.done);
        is_best || every > 0 && self.done.is_multiple_of(every)
    }

    /// Writes a checkpoint of the present update, unless there is one. All ranks call it and compare their weights; the
    /// first one writes. It is on the disk after [`Run::finish_saving`].
    pub(super) fn save(&mut self) -> Result<(), Stop> {
        let update = self.done;
        if self.output.saved == Some(update) {
            return Ok(());
        }
        self.finish_saving()?;
        self.share_bad_rows()?;
        let state = State {
            update,
            config: self.job.resolved.canonical(),
            defaults: self.job.resolved.keys_at_default(),
            data: self.rows.fingerprint.clone(),
            revisions: self.settings().data.revisions.clone(),
            components: self.job.component_names()?,
            builds: self.builds.iter().map(|(component, build)| (component.clone(), build.name().to_owned())).collect(),
            processor: self.processor.clone(),
            frozen: self.frozen.clone(),
            by_the_tree: self.by_the_tree,
            model: self.model.place(),
            adapter: json!(self.learner.objective.adapter.as_ref().map(Adapter::use_of)),
            history: self.history.clone(),
            rows: self.row_forms.clone(),
            templates: training_format::templates(&self.tokenizer_files),
            metrics_bytes: self.output.metrics.as_ref().map_or(0, Metrics::bytes),
            progress: json!({ evaluate::PROGRESS: self.evaluations, start::CURSOR: self.rows.cursor }),
        };
        let best = self.evaluations.best_kept();
        self.require_finite(update)?;
        let Learner { parameters, optimizer, layout, .. } = &self.learner;
        let store = self.output.store.as_ref();
        let what = format!("the checkpoint of update {update}");
        let directory = store.map(|_| self.settings().output_dir.as_path());
        let saving = shards::with_all_states(optimizer, layout, &self.peers, directory, &what, |states| {
            parameters.with_arrays(|parameters| {
                let weights = format!("the weights after update {update}");
                agree::require_same_bits(&self.peers, &weights, parameters.iter().map(|array| array.data))?;
                self.peers.on_first(&what, || {
                    store.map(|store| store.begin_save(&state, parameters, states, best)).transpose()
                })
            })
        })?;
        self.output.saved = Some(update);
        self.output.unfinished = Some(Unfinished::start(update, saving.flatten())?);
        Ok(())
    }

    /// Waits until the last checkpoint is on the disk. All ranks call it.
    pub(super) fn finish_saving(&mut self) -> Result<(), Stop> {
        let Some(Unfinished { update, disk }) = self.output.unfinished.take() else { return Ok(()) };
        let what = format!("the checkpoint of update {update}");
        self.peers.on_first(&what, || disk.map_or(Ok(()), |disk| self.output.saved_to(update, disk)))?;
        Ok(())
    }

    /// Tells the first rank of rows that others have met while training went on, so that its list has all.
    fn share_bad_rows(&mut self) -> Result<(), Stop> {
        if self.settings().data.on_bad_row == OnBadRow::Skip {
            let untold = self.rows.bad.take_untold();
            let all = self.peers.gather_values("the rows that were skipped", &untold)?;
            if self.peers.is_first() {
                self.rows.bad.list(all.into_iter().flatten())?.iter().for_each(|line| self.output.progress.note(line));
            }
        }
        Ok(())
    }

    /// Checks that weights and states are finite numbers. Where ranks have different states, they look at each other's.
    fn require_finite(&self, update: u64) -> Result<(), Stop> {
        let Learner { parameters, optimizer, layout, .. } = &self.learner;
        let mut found = optimizer
            .with_own_states(|states| parameters.with_arrays(|parameters| Ok(find_not_finite(parameters, states))))?;
        if layout.is_sharded() {
            let what = format!("whether the states after update {update} are finite");
            found = self.peers.gather_values(&what, &found)?.into_iter().flatten().next();
        }
        let Some((name, help)) = found else { return Ok(()) };
        let failure = Failure::new(Status::NonFinite, format!("{name} is not finite after update {update}"))
            .at(format!("optimizer {}", self.settings().optimizer.id))
            .because("this update is not saved; earlier checkpoints are as they were");
        Err(Stop::Together(failure.help(help)))
    }

    /// Writes a checkpoint for an interrupted job; the failure says how to continue.
    pub(super) fn interrupted(&mut self) -> Stop {
        self.output.progress.finish();
        // A checkpoint without any training would only refuse the corrected configuration of a run stopped at once.
        if self.done == 0 {
            let message = "interrupted before the first update: nothing has been trained, no checkpoint was written";
            return Stop::Together(Failure::new(Status::Interrupted, message));
        }
        if let Err(stop) = self.save().and_then(|()| self.finish_saving()) {
            return stop;
        }
        let failure = Failure::new(Status::Interrupted, format!("interrupted after update {}", self.done));
        let failure = match &self.output.store {
            Some(store) => failure.at(store.path(self.done).display()),
            None => failure,
        };
        Stop::Together(failure.help(self.how_to_continue()))
    }

    /// What the user runs to continue from the last checkpoint.
    pub(super) fn how_to_continue(&self) -> &'static str {
        match self.settings().checkpoint.resume {
            Resume::Auto => "run the same command again to continue from there",
            Resume::Never | Resume::From(_) => {
                "run it again with `--set checkpoint.resume=auto` to continue from there"
            }
        }
    }
}

impl Output {
    /// Takes the outcome of a checkpoint that is on the disk by now, where this rank writes it.
    pub(super) fn look_at_disk(&mut self) -> Result<(), Failure> {
        let Some(Unfinished { update, disk }) = &mut self.unfinished else { return Ok(()) };
        match (*update, disk.take_if(|disk| disk.is_finished())) {
            (update, Some(disk)) => self.saved_to(update, disk),
            _ => Ok(()),
        }
    }

    /// Waits for the disk, and tells the observers of the checkpoint.
    fn saved_to(&self, update: u64, disk: JoinHandle<Result<(), Failure>>) -> Result<(), Failure> {
        disk.join().map_err(|_| Failure::internal())??;
        if let Some(store) = &self.store {
            self.observers.tell(|| Event::CheckpointWritten(observe::written(update, &store.path(update))));
        }
        Ok(())
    }

    /// Waits for the disk when the run has ended otherwise: what was written is not lost.
    pub(super) fn finish_alone(&mut self) {
        if let Some(Unfinished { update, disk: Some(disk) }) = self.unfinished.take()
            && let Err(failure) = self.saved_to(update, disk)
        {
            progress::note(&format!("warning: {}", failure.in_one_line()));
        }
    }
}

/// The first array with a number that is not finite, and what to do about it. A finite gradient can still have been
/// multiplied by too large a rate.
fn find_not_finite(parameters: &[Array<'_>], states: &[OwnState<'_>]) -> Option<(String, String)> {
    if let Some(Array { name, .. }) = parameters.iter().find(|array| !all_finite(array.data)) {
        return Some((format!("the weight `{name}`"), "lower `optimizer.learning_rate`".to_owned()));
    }
    let OwnState { name, .. } = states.iter().find(|state| !optimizer::is_finite(state.dtype, state.bytes))?;
    let help = "lower `optimizer.learning_rate`, or report this to the author of the optimizer";
    Some((format!("the optimizer state `{name}`"), help.to_owned()))
}
