//! Check `data`.

use super::{Check, Finding, Subject};
use crate::data::Examples;
use crate::exit::{Failure, Status};
use crate::job::Job;

pub(super) const CHECK: Check = Check {
    name: "data",
    description: "Whether each source of rows can be opened and has a first row.",
    runs_plugins: true,
    run,
};

fn run(subject: &Subject) -> Vec<Finding> {
    subject.of_job(|job| {
        let data = &job.resolved.settings.data;
        let keys = [("data.train", data.train_names()), ("data.eval", data.eval.clone())];
        let sources = keys.into_iter().flat_map(|(key, sources)| sources.into_iter().map(move |source| (key, source)));
        let mut findings: Vec<_> = sources
            .map(|(key, source)| examine(job, key, &source).unwrap_or_else(|failure| Finding::failed(&failure.at(key))))
            .collect();
        if data.train.is_empty() {
            findings.push(Finding::skipped("no training data is configured: `data.train` is not set"));
        }
        findings
    })
}

fn examine(job: &Job, key: &str, source: &str) -> Result<Finding, Failure> {
    match Examples::open(job, source)?.next()? {
        Some(_) => Ok(Finding::ok(format!("{key}: {source} has rows")).fact("source", source)),
        None => Err(Failure::new(Status::Input, format!("`{source}` has no rows"))),
    }
}
