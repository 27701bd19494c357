//! Check `memory`.

use super::{Check, Finding, Subject};
use crate::exit::Failure;
use crate::job::Job;
use crate::train::{self, Estimate};

pub(super) const CHECK: Check = Check {
    name: "memory",
    description: "Whether the job fits into memory, by an estimate of its parts.",
    runs_plugins: true,
    run,
};

fn run(subject: &Subject) -> Vec<Finding> {
    subject.of_job(|job| {
        let settings = &job.resolved.settings;
        if settings.model.path.is_none() || settings.data.train.is_empty() {
            return vec![Finding::skipped("no job is configured: it needs `model.path` and `data.train`")];
        }
        vec![examine(job).unwrap_or_else(|failure| Finding::failed(&failure))]
    })
}

fn examine(job: &Job) -> Result<Finding, Failure> {
    let estimate = train::admitted(job)?;
    let Estimate { weights, other_models, gradients, states, activations, rest, loading, files, merged, recompute } =
        estimate;
    let finding = Finding::ok(format!("about {estimate}"));
    let finding = match train::available(job) {
        Some(available) => {
            let finding =
                Finding { message: format!("{}; {} available", finding.message, available.text()), ..finding };
            finding.fact("available_bytes", available.of_a_rank())
        }
        None => finding,
    };
    Ok(finding
        .fact("peak_bytes", estimate.peak())
        .fact("needed_bytes", estimate.needed())
        .fact("weights_bytes", weights)
        .fact("other_models_bytes", other_models)
        .fact("gradients_bytes", gradients)
        .fact("states_bytes", states)
        .fact("activations_bytes", activations)
        .fact("other_bytes", rest)
        .fact("loading_bytes", loading)
        .fact("files_bytes", files)
        .fact("merged_bytes", merged)
        .fact("checkpoint_activations", recompute))
}
