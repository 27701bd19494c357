//! Check `communication`.

use mdt_plugin_api::{Capabilities, Dtype, Kind};
use serde_json::json;

use super::{Check, Finding, Subject};
use crate::job::Job;

pub(super) const CHECK: Check =
    Check { name: "communication", description: "The backends that connect ranks, and what each can do.", run };

fn run(subject: &Subject) -> Vec<Finding> {
    subject.of_job(|job| {
        let listed = job.catalog.list();
        let backends = listed.iter().filter(|row| row.kind == Kind::Comm.name() && row.shadowed_by.is_none());
        backends.map(|row| examine(job, row.id)).collect()
    })
}

/// The configured backend must work. The others are created with their defaults, which they may refuse.
fn examine(job: &Job, id: &str) -> Finding {
    let chosen = job.resolved.component(Kind::Comm).filter(|chosen| chosen.id == id);
    let config = chosen.map_or_else(|| json!({}), |chosen| chosen.config.clone());
    match job.other_comm(id, &config) {
        Ok(backend) => match backend.capabilities() {
            Ok(capabilities) => describe(id, chosen.is_some(), &capabilities),
            Err(error) => Finding::failed(&error.into()),
        },
        Err(failure) if chosen.is_some() => Finding::failed(&failure),
        Err(failure) => Finding::not_usable(&failure.at(format!("comm {id}, with its defaults"))),
    }
}

fn describe(id: &str, chosen: bool, capabilities: &Capabilities) -> Finding {
    let Capabilities { dtypes, max_world_size, deterministic } = capabilities;
    let dtypes: Vec<_> = dtypes.iter().copied().map(Dtype::name).collect();
    let ranks = match max_world_size {
        0 => "any number of ranks".to_owned(),
        1 => "1 rank".to_owned(),
        most => format!("up to {most} ranks"),
    };
    let folds = if *deterministic { "deterministic" } else { "not deterministic" };
    let note = if chosen { " (configured)" } else { "" };
    Finding::ok(format!("{id}{note}: {ranks}; reduces {}; {folds}", dtypes.join(", ")))
        .fact("id", id)
        .fact("configured", chosen)
        .fact("dtypes", json!(dtypes))
        .fact("max_world_size", *max_world_size)
        .fact("deterministic", *deterministic)
}
