//! `mdt-host evaluate`: the held-out loss of a model or a checkpoint.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::common::{Common, on_compute_thread};
use super::model_options::ModelOptions;
use super::output::print;
use crate::config::Flag;
use crate::exit::Failure;
use crate::{signals, train};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    model: ModelOptions,
    /// A checkpoint of the job, `outputs/sft/checkpoints/step-000100`: its weights are evaluated in place of the model's.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["model", "adapter"])]
    checkpoint: Option<PathBuf>,
    /// The rows to evaluate on; the default is the configured held-out rows.
    #[arg(long, value_name = "SOURCE")]
    data: Option<String>,
    /// Print JSON: `loss`, `perplexity`, `tokens`, `metrics`, `seconds`.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(common: &Common, arguments: &Arguments) -> Result<(), Failure> {
    let mut flags = arguments.model.flags();
    let data = |source| Flag { name: "--data".to_owned(), key: "data.eval".to_owned(), value: json!([source]) };
    flags.extend(arguments.data.as_ref().map(data));
    let job = common.job(flags, signals::cancellation()?)?;
    let figures = on_compute_thread(&job, || train::evaluate(&job, arguments.checkpoint.as_deref(), common.force))?;
    if arguments.json { print(format_args!("{:#}", json!(figures))) } else { print(figures) }
}
