//! `mdt-host chat`: a conversation with a model.

use std::io::{self, BufRead, IsTerminal};
use std::sync::Arc;

use clap::Args;
use mdt_plugin_api::Message;
use serde_json::json;

use super::common::{Common, on_compute_thread};
use super::model_options::ModelOptions;
use super::output::{AnswerPrinter, print, print_part};
use super::sampling::Sampling;
use crate::exit::{Failure, Status};
use crate::generation::{Generator, Options, Session};
use crate::job::Job;
use crate::progress;
use crate::prompt_format::PromptFormat;
use crate::signals::{self, Interruptions};
use crate::train::{self, Work};
use crate::training_format::TrainingFormat;

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    model: ModelOptions,
    /// What the system says before the conversation.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    sampling: Sampling,
    /// Print a line of JSON for each answer: `answer`, `ended_by`, `prompt_tokens`, `known_tokens`, `answer_tokens`.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(common: &Common, arguments: &Arguments) -> Result<(), Failure> {
    let options = arguments.sampling.options()?;
    let interruptions = signals::interruptions()?;
    let job = common.job(arguments.model.flags(), Arc::default())?;
    on_compute_thread(&job, || converse(&job, arguments, &options, &interruptions, common.force))
}

fn converse(
    job: &Job,
    arguments: &Arguments,
    options: &Options,
    interruptions: &Interruptions,
    force: bool,
) -> Result<(), Failure> {
    let opened = job.open_model(job.compute()?)?.to_be_used_only();
    if !opened.tokenizer.vocabulary().renders_messages {
        return Err(Failure::new(Status::Input, "the model has no chat template, so it holds no conversations")
            .at(opened.directory.path().display())
            .help("name a template: `--set tokenizer.chat_template=FILE`; or continue a text: `mdt-host generate`"));
    }
    if let Some(record) = TrainingFormat::of_source(job)? {
        progress::note(&record.compared(job, Some(PromptFormat::Template), false));
    }
    train::admit(job, &opened, Work::Answers(&[]), force)?;
    let generator = Generator::new(&opened, opened.weights()?)?;
    let is_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    if is_terminal {
        progress::note("/reset begins again; /exit or Ctrl-D ends; Ctrl-C stops an answer, and another one ends");
    }
    let beginning: Vec<Message> = arguments.system.iter().map(|text| Message::new("system", text)).collect();
    let (mut messages, mut session) = (beginning.clone(), Session::new(&generator));
    loop {
        if is_terminal {
            print_part("> ")?;
        }
        let Some(line) = next_line()? else { break };
        match line.trim() {
            "" => continue,
            "/exit" => return Ok(()),
            "/reset" => {
                (messages, session) = (beginning.clone(), Session::new(&generator));
                continue;
            }
            text => messages.push(Message::new("user", text)),
        }
        let prompt = opened.tokenizer.render_prompt(&messages)?.tokens.ids;
        interruptions.begin_answer();
        let mut printer = AnswerPrinter { prints: !arguments.json, is_interrupted: || interruptions.stop_the_answer() };
        let (answer, known) = session.answer(&prompt, options, &mut printer)?;
        interruptions.end_answer();
        if arguments.json {
            print(json!({
                "answer": answer.text, "ended_by": answer.end.name(), "prompt_tokens": prompt.len(),
                "known_tokens": known, "answer_tokens": answer.tokens.len(),
            }))?;
        } else {
            print("")?;
        }
        messages.push(Message::new("assistant", answer.text));
    }
    // The prompt that nothing followed.
    if is_terminal { print("") } else { Ok(()) }
}

/// The next line of standard input; none after the last one.
fn next_line() -> Result<Option<String>, Failure> {
    let mut line = Vec::new();
    let read = io::stdin().lock().read_until(b'\n', &mut line);
    match read.map_err(|error| Failure::new(Status::Input, "standard input cannot be read").because(error))? {
        0 => Ok(None),
        _ => Ok(Some(String::from_utf8_lossy(&line).into_owned())),
    }
}
