//! `mdt-host evaluate`: the held-out loss of a model, and how many of its answers are right.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use mdt_plugin_api::Example;
use serde_json::{Value, json};

use super::common::{Common, on_compute_thread};
use super::generate::{Batch, answers, exact_match, rows};
use super::model_options::ModelOptions;
use super::output::print;
use crate::config::Flag;
use crate::exit::Failure;
use crate::generation::Options;
use crate::job::Job;
use crate::training_format::TrainingFormat;
use crate::{progress, signals, train};

/// Prompts that are answered together.
const BATCH: usize = 8;

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    model: ModelOptions,
    /// The rows to evaluate on; the default is the configured held-out rows.
    #[arg(long, value_name = "SOURCE")]
    data: Option<String>,
    /// Also answer the prompt of each row, with the most likely tokens, and count the answers that are exactly right.
    #[arg(long)]
    exact_match: bool,
    /// Maximum length of such an answer, in tokens.
    #[arg(long, value_name = "N", default_value_t = 256, requires = "exact_match")]
    max_tokens: usize,
    /// Print JSON: `loss`, `perplexity`, `accuracy`, `tokens`, `metrics`, `seconds`, and with --exact-match `exact_match` and `compared`.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(common: &Common, arguments: &Arguments) -> Result<(), Failure> {
    let mut flags = arguments.model.flags();
    let data = |source| Flag { name: "--data".to_owned(), key: "data.eval".to_owned(), value: json!([source]) };
    flags.extend(arguments.data.as_ref().map(data));
    let cancelled = signals::cancellation()?;
    let job = common.job(flags, Arc::clone(&cancelled))?;
    if let Some(record) = TrainingFormat::of_source(&job)? {
        progress::note(&record.compared(&job, None, true));
    }
    let (figures, matched) = on_compute_thread(&job, || {
        let figures = train::evaluate(&job, common.force)?;
        let matched = arguments.exact_match.then(|| matches(&job, arguments.max_tokens, &cancelled, common.force));
        Ok((figures, matched.transpose()?))
    })?;
    match (arguments.json, matched) {
        (false, None) => print(figures),
        (false, Some((0, _))) => print(format_args!("{figures}; no row has an answer to compare with")),
        (false, Some((compared, share))) => {
            print(format_args!("{figures}; exact match {:.1} % of {compared}", 100.0 * share.unwrap_or_default()))
        }
        (true, matched) => {
            let mut figures = json!(figures);
            if let (Value::Object(figures), Some((compared, share))) = (&mut figures, matched) {
                figures.extend([("exact_match".to_owned(), json!(share)), ("compared".to_owned(), json!(compared))]);
            }
            print(format_args!("{figures:#}"))
        }
    }
}

/// How many answers were compared, and the share of them that is exactly right.
fn matches(job: &Job, max_tokens: usize, cancelled: &AtomicBool, force: bool) -> Result<(usize, Option<f64>), Failure> {
    let sources = &job.resolved.settings.data.eval;
    if sources.is_empty() {
        return Err(Failure::configuration("--exact-match needs rows of their own").help(
            "name them with --data or `data.eval`; rows that are held out by `data.eval_split` have tokens only",
        ));
    }
    let examples = |_| -> Result<Vec<Example>, Failure> {
        let all = sources.iter().map(|source| rows(job, source, None, cancelled));
        Ok(all.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    };
    let options = Options { max_tokens, ..Options::default() };
    let batch = Batch { size: BATCH, prints: false, format: None, are_alone: false, tells: false };
    let (answered, _) = answers(job, examples, batch, &options, cancelled, force)?;
    Ok(exact_match(&answered))
}
