//! The checkpoint that a run resumes from, and what the run takes from it.

use std::path::Path;

use super::agree::Start;
use super::builds::{Build, Builds};
use crate::checkpoint::{Changed, Checkpoint, State, Store};
use crate::config::{Difference, Resume};
use crate::data::{Cursor, Plan};
use crate::exit::{Failure, Status};
use crate::job::Job;
use crate::metrics::Metrics;
use crate::model::{Adapter, Parameters};
use crate::progress;
use serde_json::Value;

/// Finds the checkpoint that the job resumes from and checks that it belongs to the job; what has changed since is said and
/// added to its history. `by_the_tree` says whether the comm plugin adds by the pairwise tree.
pub(super) fn find_checkpoint(
    job: &Job,
    store: &Store,
    plan: &Plan,
    fingerprint: &str,
    by_the_tree: bool,
) -> Result<Option<Checkpoint>, Failure> {
    let mut found = match &job.resolved.settings.checkpoint.resume {
        Resume::Never => None,
        Resume::Auto => {
            let latest = store.latest()?;
            latest.warnings.iter().for_each(|warning| progress::note(&format!("warning: {warning}")));
            latest.checkpoint
        }
        Resume::From(path) => Some(Checkpoint::open(path)?),
    };
    if let Some(Checkpoint { path, state }) = &mut found {
        let changed = job
            .resolved
            .require_same_job(&state.config, &state.defaults, [state.by_the_tree, by_the_tree])
            .and_then(|changed| require_later_end(job, plan, state).map(|()| changed))
            .map_err(|failure| failure.at(path.display()))?;
        if state.data != fingerprint {
            let data = &job.resolved.settings.data;
            let again = "begin again with `--set checkpoint.resume=never` and another `output_dir`";
            let help = match state.revisions.iter().find(|revision| !data.revisions.contains(revision)) {
                Some(revision) => format!("name the revision that the job began with, {revision}; or {again}"),
                None => format!("bring the data back; or {again}"),
            };
            return Err(Failure::new(
                Status::Configuration,
                "the training data has changed since the checkpoint was written",
            )
            .at(data.train_names().join(", "))
            .at(path.display())
            .help(help));
        }
        record(state, changed);
    }
    Ok(found)
}

/// Says what has changed since a checkpoint was written, and adds it to the history of those that follow.
fn record(state: &mut State, changed: Vec<Difference>) {
    let (of_updates, free): (Vec<_>, Vec<_>) = changed.iter().partition(|difference| difference.changes_updates());
    for difference in of_updates {
        let (key, [before, now]) = (&difference.key, difference.values());
        progress::note(&format!("changed  {key} is {now}, was {before} until update {}", state.update));
    }
    if !free.is_empty() {
        let keys: Vec<_> = free.iter().map(|difference| difference.key.as_str()).collect();
        progress::note(&format!("changed  {}, on which no update depends", keys.join(", ")));
    }
    if !changed.is_empty() {
        let keys = changed
            .into_iter()
            .map(|Difference { key, before, now }| (key, [before.unwrap_or_default(), now.unwrap_or_default()]));
        state.history.push(Changed { after: state.update, keys: keys.collect() });
    }
}

/// Checks that the job does not end before its checkpoint.
fn require_later_end(job: &Job, plan: &Plan, state: &State) -> Result<(), Failure> {
    let (done, updates) = (state.update, plan.total_updates());
    if updates >= done {
        return Ok(());
    }
    let trainer = &job.resolved.settings.trainer;
    let (key, now) = match trainer.max_steps {
        Some(steps) => ("max_steps", steps),
        None => ("num_epochs", trainer.num_epochs.into()),
    };
    let before = &state.config["trainer"][key];
    let message = format!("`trainer.{key}` is {now}, and the checkpoint is of a later update");
    Err(Failure::configuration(message)
        .because(format!("trainer.{key} was {before}; the job would end after update {updates}, and {done} are done"))
        .help("set it higher; or go on from an earlier checkpoint with `--set checkpoint.resume=DIR` and another `output_dir`"))
}

/// The checksum of the weights that are not trained; empty where all are.
///
/// # Errors
/// It is not that of the checkpoint which the run resumes from: what was trained belongs to other weights.
pub(super) fn frozen(parameters: &Parameters, model: &Path, resumed: Option<&Checkpoint>) -> Result<String, Failure> {
    if parameters.frozen_handles().is_empty() {
        return Ok(String::new());
    }
    let now = parameters.frozen_checksum()?;
    match resumed {
        Some(checkpoint) if checkpoint.state.frozen != now => {
            let message = "the weights that are not trained are others than those that the checkpoint was trained with";
            Err(Failure::configuration(message)
                .at(model.display())
                .at(checkpoint.path.display())
                .because(format!("their checksum was {:?} and is {now:?}", checkpoint.state.frozen))
                .help(
                    "bring the model back that the run began with; or begin again with `--set checkpoint.resume=never`",
                ))
        }
        _ => Ok(now),
    }
}

/// Checks that the adapter which a directory describes is used as it was when the checkpoint was written. The configuration names
/// the directory only.
///
/// # Errors
/// Another number is in its file.
pub(super) fn require_same_adapter(adapter: Option<&Adapter>, resumed: Option<&Checkpoint>) -> Result<(), Failure> {
    let (Some(adapter), Some(checkpoint)) = (adapter, resumed) else { return Ok(()) };
    let (before, now) = (&checkpoint.state.adapter, adapter.use_of());
    let differs = |(key, now): (&String, &Value)| Some((key.clone(), before.get(key)?.clone(), now.clone()));
    let other = now.as_object().into_iter().flatten().filter_map(differs).find(|(_, before, now)| before != now);
    let Some((key, before, now)) = other else { return Ok(()) };
    Err(Failure::configuration("the adapter is used otherwise than when the checkpoint was written")
        .at(adapter.place())
        .at(checkpoint.path.display())
        .because(format!("its {key} was {before} and is {now}"))
        .help("bring its file back; or begin again with `--set checkpoint.resume=never`"))
}

/// The key of the place in the training rows in a checkpoint's `progress`, where they stream.
pub(super) const CURSOR: &str = "rows";

/// The place in rows that stream that a run begins at.
pub(super) fn cursor(start: &Start) -> Result<Cursor, Failure> {
    match start.progress.get(CURSOR) {
        None | Some(Value::Null) => Ok(Cursor::default()),
        Some(cursor) => serde_json::from_value(cursor.clone())
            .map_err(|error| Failure::new(Status::Storage, "the checkpoint's `progress` is damaged").because(error)),
    }
}

/// Opens the metrics file. If the run resumes from a checkpoint in its own output directory, the file is cut back to that
/// checkpoint; otherwise this is another run, and the results of an earlier one are moved aside.
pub(super) fn open_metrics(store: &Store, output_dir: &Path, resumed: Option<&Checkpoint>) -> Result<Metrics, Failure> {
    if let Some(checkpoint) = resumed {
        progress::note(&format!("resuming from {}", checkpoint.path.display()));
        if store.contains(checkpoint) {
            let (metrics, warning) = Metrics::resume(output_dir, checkpoint.state.metrics_bytes)?;
            warning.iter().for_each(|warning| progress::note(&format!("warning: {warning}")));
            return Ok(metrics);
        }
    }
    if let Some(earlier) = store.set_aside_earlier()? {
        progress::note(&format!("the results of an earlier run were moved to {}", earlier.display()));
    }
    Metrics::create(output_dir)
}

/// Warns of components, builds and processors that differ from those that computed the checkpoint.
pub(super) fn compare(checkpoint: &Checkpoint, components: &[String], builds: &Builds, processor: &str) {
    let State { components: before, builds: built_before, processor: before_on, .. } = &checkpoint.state;
    for (now, before) in components.iter().zip(before).filter(|(now, before)| now != before) {
        progress::note(&format!("warning: resuming with {now}, the checkpoint was written with {before}"));
    }
    let is_other = |(component, build): &(&String, &Build)| {
        built_before.get(*component).is_some_and(|before| before != build.name())
    };
    let others: Vec<_> = builds.iter().filter(is_other).map(|(component, _)| component.as_str()).collect();
    if !others.is_empty() {
        progress::note(&format!(
            "warning: further updates may differ from those of an uninterrupted run: the checkpoint was written with other \
             builds of {}",
            others.join(", ")
        ));
    }
    if before_on != processor && !before_on.is_empty() {
        progress::note(&format!(
            "warning: the bits of further updates may differ from those of an uninterrupted run: the checkpoint was \
             computed with {before_on}, this run computes with {processor}"
        ));
    }
}
