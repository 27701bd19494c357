//! What observers are told of a run.

use std::fs;
use std::path::Path;

use mdt_plugin_api::{Event, Metrics, Sample, Started, Written};
use serde::Serialize;

use super::Run;
use super::gradient::Objective;
use super::run::Output;
use crate::exit::{Failure, Status};
use crate::metrics::{self, Extra};

impl Run<'_> {
    /// Tells the observers what is trained.
    pub(super) fn tell_start(&self) -> Result<(), Failure> {
        let (settings, observers) = (self.settings(), &self.output.observers);
        let mut components = self.job.component_names()?;
        components.extend(observers.names());
        observers.tell(|| {
            Event::Started(Started {
                configuration: self.job.resolved.canonical(),
                output_dir: settings.output_dir.to_string_lossy().into_owned(),
                components,
                updates_done: self.done,
                updates_planned: self.rows.plan.total_updates(),
                rank: settings.comm.rank,
                world_size: settings.comm.world_size,
            })
        });
        Ok(())
    }
}

impl Output {
    /// Tells the observers of the first answer that was drawn for an update, or in an evaluation after it.
    pub(super) fn tell_sample(&self, objective: &Objective, update: u64, evaluation: bool) {
        if let Some([prompt, answer]) = objective.take_sample() {
            self.observers.tell(|| Event::Sampled(Sample { update, evaluation, prompt, answer }));
        }
    }

    /// Writes a line of metrics, where this rank writes them, and tells the observers of it.
    pub(super) fn write_line(
        &mut self,
        event: fn(Metrics) -> Event,
        update: u64,
        line: &impl Serialize,
        extra: &Extra,
    ) -> Result<(), Failure> {
        self.metrics.as_mut().map_or(Ok(()), |metrics| metrics.append(line, extra))?;
        self.observers.tell(|| event(Metrics { update, values: metrics::numbers(line, extra) }));
        Ok(())
    }
}

/// How a run ended.
pub(super) fn end(outcome: &Result<(), Failure>) -> Event {
    match outcome {
        Ok(()) => Event::Finished,
        Err(failure) if failure.status() == Status::Interrupted => Event::Interrupted,
        Err(failure) => Event::Failed { message: failure.in_one_line() },
    }
}

/// The files in a directory that was written.
pub(super) fn written(update: u64, directory: &Path) -> Written {
    let names = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<_> = names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    files.sort();
    Written { update, directory: directory.to_string_lossy().into_owned(), files }
}
