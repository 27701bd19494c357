//! Check `communication`.

use mdt_plugin_api::{Capabilities, Dtype, Kind};
use serde_json::json;

use super::{Check, Finding, Subject};
use crate::job::Job;

pub(super) const CHECK: Check = Check {
    name: "communication",
    description: "The backends that connect ranks, and what each can do.",
    runs_plugins: true,
    run,
};

fn run(subject: &Subject) -> Vec<Finding> {
    subject.of_job(|job| {
        let listed = job.catalog.list();
        let backends = listed.iter().filter(|row| row.kind == Kind::Comm.name() && row.shadowed_by.is_none());
        backends.map(|row| examine(job, row.id)).collect()
    })
}

/// The configured backend must work. The others are not run.
fn examine(job: &Job, id: &str) -> Finding {
    if job.resolved.component(Kind::Comm).is_none_or(|chosen| chosen.id != id) {
        return Finding::ok(format!("{id}: not configured")).fact("id", id).fact("configured", false);
    }
    let described = job.comm().and_then(|backend| Ok(describe(id, &backend.capabilities()?)));
    described.unwrap_or_else(|failure| Finding::failed(&failure))
}

fn describe(id: &str, capabilities: &Capabilities) -> Finding {
    let Capabilities { dtypes, ops, max_world_size, deterministic, data_path } = capabilities;
    let dtypes: Vec<_> = dtypes.iter().copied().map(Dtype::name).collect();
    let ops: Vec<_> = ops.iter().map(|op| op.name()).collect();
    let ranks = match max_world_size {
        0 => "any number of ranks".to_owned(),
        1 => "1 rank".to_owned(),
        most => format!("up to {most} ranks"),
    };
    let folds = if *deterministic { "deterministic" } else { "not deterministic" };
    let path = if data_path.is_empty() { String::new() } else { format!("; data moves {data_path}") };
    let (reduced, by) = (dtypes.join(", "), ops.join(", "));
    Finding::ok(format!("{id} (configured): {ranks}; reduces {reduced} by {by}; {folds}{path}"))
        .fact("id", id)
        .fact("configured", true)
        .fact("dtypes", json!(dtypes))
        .fact("ops", json!(ops))
        .fact("max_world_size", *max_world_size)
        .fact("deterministic", *deterministic)
        .fact("data_path", data_path.as_str())
}
