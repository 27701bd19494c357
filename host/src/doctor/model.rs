//! Check `model`.

use indicatif::HumanCount;

use super::{Check, Finding, Subject};
use crate::config::Init;
use crate::exit::Failure;
use crate::job::Job;

pub(super) const CHECK: Check = Check {
    name: "model",
    description: "Whether the model directory, config.json, weights and tokenizer are there and match.",
    runs_plugins: true,
    run,
};

fn run(subject: &Subject) -> Vec<Finding> {
    subject.of_job(|job| {
        let model = &job.resolved.settings.model;
        if model.path.is_none() && model.name.is_none() {
            return vec![Finding::skipped("no model is configured: `model.path` is not set")];
        }
        vec![examine(job).unwrap_or_else(|failure| Finding::failed(&failure))]
    })
}

/// What a run does with the model before it reads the weights.
fn examine(job: &Job) -> Result<Finding, Failure> {
    let directory = job.model_directory()?;
    let Ok(compute) = job.compute() else {
        return Ok(Finding::skipped("it needs a compute device that works"));
    };
    let opened = job.open_model(compute)?;
    opened.check_files()?;
    let parameters: usize =
        opened.parameters().iter().filter(|spec| spec.tied_to.is_none()).map(|spec| spec.elements()).sum();
    let weights = match job.resolved.settings.model.init {
        Init::Pretrained => "pretrained weights",
        Init::Random => "random weights",
    };
    let place = directory.path().display();
    Ok(Finding::ok(format!("{place}: {} parameters, {weights}, and its tokenizer", HumanCount(parameters as u64)))
        .fact("path", directory.path().to_string_lossy())
        .fact("parameters", parameters))
}
