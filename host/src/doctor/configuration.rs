//! Check `configuration`.

use serde_json::json;

use super::{Check, Finding, Subject};
use crate::config::Origin;
use crate::job::Job;

pub(super) const CHECK: Check =
    Check { name: "configuration", description: "Whether the configuration has errors.", runs_plugins: false, run };

fn run(subject: &Subject) -> Vec<Finding> {
    match subject.configuration() {
        Some(failure) => vec![Finding::failed(failure)],
        None => subject.of_job(examine),
    }
}

fn examine(job: &Job) -> Vec<Finding> {
    let entries = &job.resolved.entries;
    let is_default =
        |origin: &Origin| matches!(origin, Origin::Default | Origin::Component(_) | Origin::Flat | Origin::Model);
    let set = entries.iter().filter(|entry| !is_default(&entry.origin)).count();
    let message = match set {
        0 => "nothing is configured: the other checks use the defaults".to_owned(),
        1 => format!("1 of {} keys is set", entries.len()),
        set => format!("{set} of {} keys are set", entries.len()),
    };
    let mut findings = vec![Finding::ok(message).fact("keys", entries.len()).fact("set", json!(set))];
    findings.extend(job.resolved.dropped.iter().map(|dropped| Finding::warning(dropped.to_string())));
    let settings = &job.resolved.settings;
    // Without a model or data there is no job to check, only a machine.
    if (settings.model.path.is_some() || settings.model.name.is_some()) && !settings.data.train.is_empty() {
        findings.extend(job.resolved.require_job().err().map(|failure| Finding::failed(&failure)));
    }
    findings
}
