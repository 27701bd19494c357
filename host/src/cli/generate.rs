//! `mdt-host generate`: prints the answers of a model.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use mdt_plugin_api::{Example, Length, Message};
use serde_json::json;

use super::common::{Common, adapter_flags, on_compute_thread};
use super::output::print;
use crate::config::Flag;
use crate::exit::{Failure, Status};
use crate::generate::Generator;
use crate::job::Job;
use crate::signals;

#[derive(Args)]
pub(super) struct Arguments {
    /// The model's directory; the default is the configured model.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// The directory of an adapter for the model, as peft or mlx-lm writes it.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// The prompt: a user's message if the model has a chat template, otherwise plain text to continue.
    #[arg(long, value_name = "TEXT", required_unless_present = "data", conflicts_with = "data")]
    prompt: Option<String>,
    /// Answer the rows of this data instead, and count the answers that are exactly right.
    #[arg(long, value_name = "SOURCE")]
    data: Option<String>,
    /// The number of rows to answer.
    #[arg(long, value_name = "N", requires = "data")]
    limit: Option<usize>,
    /// The number of rows to print, spread evenly; all rows are counted. The default prints all.
    #[arg(long, value_name = "N", requires = "data", conflicts_with = "json")]
    show: Option<usize>,
    /// Maximum length of an answer, in tokens.
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_tokens: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// One answer.
struct Answer {
    prompt: String,
    expected: Option<String>,
    text: String,
}

pub(super) fn run(common: &Common, arguments: &Arguments) -> Result<(), Failure> {
    let mut flags = Vec::new();
    if let Some(model) = &arguments.model {
        let flag = |key: &str, value| Flag { name: "--model".to_owned(), key: key.to_owned(), value };
        flags.push(flag("model.path", json!(model)));
        flags.push(flag("model.init", json!("pretrained")));
    }
    if let Some(adapter) = &arguments.adapter {
        flags.extend(adapter_flags(adapter));
    }
    let cancelled = signals::cancellation()?;
    let job = common.job(flags, Arc::clone(&cancelled))?;
    let answers = on_compute_thread(&job, || answers(&job, arguments, &cancelled))?;
    show(&answers, arguments)
}

fn answers(job: &Job, arguments: &Arguments, cancelled: &AtomicBool) -> Result<Vec<Answer>, Failure> {
    let opened = job.open_model(job.compute()?)?;
    let examples = match (&arguments.prompt, &arguments.data) {
        (Some(prompt), _) => vec![prompt_example(prompt, opened.tokenizer.vocabulary().renders_messages)],
        (None, source) => rows(job, source.as_deref().unwrap_or_default(), arguments.limit, cancelled)?,
    };
    let generator = Generator::new(&opened, opened.weights()?)?;
    let mut answers = Vec::new();
    for example in examples {
        require_not_cancelled(cancelled)?;
        let text = generator.answer(&example, arguments.max_tokens)?;
        let (prompt, expected) = describe(&example);
        answers.push(Answer { prompt, expected, text });
    }
    Ok(answers)
}

fn prompt_example(prompt: &str, chat: bool) -> Example {
    match chat {
        true => Example::new(1).with("messages", vec![Message::new("user", prompt)]),
        false => Example::new(1).with("text", prompt),
    }
}

fn rows(job: &Job, name: &str, limit: Option<usize>, cancelled: &AtomicBool) -> Result<Vec<Example>, Failure> {
    let mut source = job.data(name)?;
    if limit.is_none() && !matches!(source.length()?, Length::Rows(_)) {
        return Err(Failure::configuration(format!("the data source {name} does not say how many rows it has"))
            .help("say how many rows to answer: --limit N"));
    }
    let mut rows = Vec::new();
    while rows.len() < limit.unwrap_or(usize::MAX) {
        require_not_cancelled(cancelled)?;
        match source.next()? {
            Some(example) => rows.push(example),
            None => break,
        }
    }
    Ok(rows)
}

fn require_not_cancelled(cancelled: &AtomicBool) -> Result<(), Failure> {
    if cancelled.load(Ordering::Relaxed) { Err(Failure::new(Status::Interrupted, "interrupted")) } else { Ok(()) }
}

/// The prompt of a row and the answer that it has.
fn describe(example: &Example) -> (String, Option<String>) {
    if let Ok(mut messages) = example.messages("messages") {
        let expected = messages.pop_if(|last| last.role == "assistant").map(|last| last.content);
        return (messages.pop().map(|last| last.content).unwrap_or_default(), expected);
    }
    let text = |name| example.text(name).ok().map(str::to_owned);
    (text("prompt").or_else(|| text("text")).unwrap_or_default(), text("completion"))
}

impl Answer {
    /// Whether it is exactly the expected one; `None` where none is expected.
    fn is_right(&self) -> Option<bool> {
        self.expected.as_deref().map(|expected| expected.trim() == self.text.trim())
    }
}

fn show(answers: &[Answer], arguments: &Arguments) -> Result<(), Failure> {
    let compared: Vec<bool> = answers.iter().filter_map(Answer::is_right).collect();
    let right = compared.iter().filter(|&&right| right).count();
    let exact_match = (!compared.is_empty()).then(|| right as f64 / compared.len() as f64);
    if arguments.json {
        let rows: Vec<_> = answers
            .iter()
            .map(|answer| json!({ "prompt": answer.prompt, "expected": answer.expected, "answer": answer.text }))
            .collect();
        print(format_args!("{:#}", json!({ "rows": rows, "compared": compared.len(), "exact_match": exact_match })))
    } else if arguments.data.is_none() {
        answers.iter().try_for_each(|answer| print(&answer.text))
    } else {
        let stride = answers.len().div_ceil(arguments.show.unwrap_or(answers.len()).max(1)).max(1);
        for Answer { prompt, expected, text } in answers.iter().step_by(stride) {
            let expected = expected.as_ref().map_or(String::new(), |expected| format!(" (expected {expected:?})"));
            print(format_args!("{prompt:?} → {text:?}{expected}"))?;
        }
        let rest = match answers.len() - compared.len() {
            0 => String::new(),
            1 => "; 1 row has no answer to compare with".to_owned(),
            rest => format!("; {rest} rows have no answer to compare with"),
        };
        match exact_match {
            Some(share) => {
                print(format_args!("exact match: {right} of {} ({:.1} %){rest}", compared.len(), 100.0 * share))
            }
            None => print("exact match: no row has an answer to compare with"),
        }
    }
}
