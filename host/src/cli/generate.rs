//! `mdt-host generate`: prints the answers of a model.

mod show;

pub(super) use self::show::{Answered, exact_match};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use mdt_plugin_api::{Example, Kind, Length, SharedTokenizer};

use self::show::show;
use super::common::{Common, on_compute_thread};
use super::model_options::ModelOptions;
use super::output::AnswerPrinter;
use super::sampling::Sampling;
use crate::counted::counted;
use crate::data::Examples;
use crate::exit::{Failure, Status};
use crate::generation::{Answers, Generator, Options, Speed};
use crate::job::{Job, OpenedModel};
use crate::progress;
use crate::prompt_format::PromptFormat;
use crate::signals;
use crate::train::{self, Work};
use crate::training_format::TrainingFormat;

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    model: ModelOptions,
    /// The prompt: a user's message if the model has a chat template, otherwise plain text to continue; after training on
    /// prompts and completions, what these were. May be given several times.
    #[arg(long, value_name = "TEXT", required_unless_present = "data", conflicts_with = "data")]
    prompt: Vec<String>,
    /// Answer the rows of this data instead, and count the answers that are exactly right.
    #[arg(long, value_name = "SOURCE")]
    data: Option<String>,
    /// Whether prompts are plain text, or what a user says, which the chat template renders. The default is as in
    /// training, which is said; of a model without a record of it, what a user says if there is a chat template, and the
    /// prompts of rows are plain text.
    #[arg(long, value_name = "FORMAT")]
    prompt_format: Option<PromptFormat>,
    /// The number of rows to answer.
    #[arg(long, visible_alias = "rows", value_name = "N", requires = "data")]
    limit: Option<usize>,
    /// The number of rows to print, spread evenly; all rows are counted. The default prints all.
    #[arg(long, value_name = "N", requires = "data", conflicts_with = "json")]
    show: Option<usize>,
    /// The number of prompts that are answered together: more are faster, and need more memory.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,
    #[command(flatten)]
    sampling: Sampling,
    /// Print JSON: the rows (`prompt_ids` are the tokens that the model had), and how many tokens were computed in which time.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(common: &Common, arguments: &Arguments) -> Result<(), Failure> {
    let options = arguments.sampling.options()?;
    let cancelled = signals::cancellation()?;
    let job = common.job(arguments.model.flags(), Arc::clone(&cancelled))?;
    let examples = |format: PromptFormat| match &arguments.data {
        Some(source) => rows(&job, source, arguments.limit, &cancelled),
        None => Ok(arguments.prompt.iter().map(|prompt| format.example(prompt)).collect()),
    };
    let batch = Batch {
        size: arguments.batch_size as usize,
        prints: arguments.streams(),
        format: arguments.prompt_format,
        are_alone: arguments.data.is_none(),
        tells: true,
    };
    let (answered, speed) =
        on_compute_thread(&job, || answers(&job, examples, batch, &options, &cancelled, common.force))?;
    show(&answered, &speed, arguments)
}

/// How prompts are answered together.
pub(super) struct Batch {
    /// How many at a time.
    pub(super) size: usize,
    /// Whether text is printed as it comes.
    pub(super) prints: bool,
    /// What prompts are; the default is as in training.
    pub(super) format: Option<PromptFormat>,
    /// Whether prompts stand alone, and are not those of rows.
    pub(super) are_alone: bool,
    /// Whether the user is told what prompts are.
    pub(super) tells: bool,
}

impl Batch {
    /// What the prompts are.
    fn format(&self, job: &Job, opened: &OpenedModel, record: Option<&TrainingFormat>) -> PromptFormat {
        let configured = || PromptFormat::of(&job.resolved.component(Kind::Trainer)?.config);
        let recorded = || if self.are_alone { record?.prompts() } else { record?.prompts_of_rows() };
        let is_chat = opened.tokenizer.vocabulary().renders_messages;
        let default = if self.are_alone && is_chat { PromptFormat::Template } else { PromptFormat::Plain };
        self.format.or_else(configured).or_else(recorded).unwrap_or(default)
    }
}

/// The answers of a job's model to these examples.
pub(super) fn answers(
    job: &Job,
    examples: impl FnOnce(PromptFormat) -> Result<Vec<Example>, Failure>,
    batch: Batch,
    options: &Options,
    cancelled: &AtomicBool,
    force: bool,
) -> Result<(Vec<Answered>, Speed), Failure> {
    let opened = job.open_model(job.compute()?)?.to_be_used_only();
    let record = TrainingFormat::of_source(job)?;
    let format = batch.format(job, &opened, record.as_ref());
    let examples = examples(format)?;
    if let Some(record) = record.filter(|_| batch.tells) {
        let has_prompts = batch.are_alone || examples.iter().any(PromptFormat::applies_to);
        progress::note(&record.compared(job, has_prompts.then_some(format), false));
    }
    let batches = examples.chunks(batch.size);
    let prompts =
        batches.clone().map(|batch| prompts(&opened.tokenizer, batch, format)).collect::<Result<Vec<_>, _>>()?;
    let longest = |batch: &&Vec<Vec<u32>>| batch.iter().map(Vec::len).max().unwrap_or(0) * batch.len();
    if let Some(batch) = prompts.iter().max_by_key(longest) {
        train::admit(job, &opened, Work::Answers(batch), force)?;
    }
    let generator = Generator::new(&opened, opened.weights()?)?;
    let mut listener = AnswerPrinter { prints: batch.prints, is_interrupted: || cancelled.load(Ordering::Relaxed) };
    let (mut answered, mut speed) = (Vec::new(), Speed::default());
    for (batch, prompts) in batches.zip(&prompts) {
        let Answers { answers, speed: of_batch } = generator.answers(prompts, options, &mut listener)?;
        require_not_cancelled(cancelled)?;
        speed.add(of_batch);
        let rows = batch.iter().zip(prompts).zip(answers);
        answered.extend(rows.map(|((example, tokens), answer)| Answered::new(example, tokens, answer)));
    }
    Ok((answered, speed))
}

impl Arguments {
    /// Whether the text of the answer is printed as it comes.
    fn streams(&self) -> bool {
        self.prompt.len() == 1 && !self.json
    }
}

fn prompts(tokenizer: &SharedTokenizer, examples: &[Example], format: PromptFormat) -> Result<Vec<Vec<u32>>, Failure> {
    examples.iter().map(|example| Ok(tokenizer.encode_prompt(&format.applied(example))?)).collect()
}

/// The rows of a source, up to `limit`.
pub(super) fn rows(
    job: &Job,
    name: &str,
    limit: Option<usize>,
    cancelled: &AtomicBool,
) -> Result<Vec<Example>, Failure> {
    if limit.is_none() && !matches!(job.data(name)?.length()?, Length::Rows(_)) {
        return Err(Failure::configuration(format!("the data source {name} does not say how many rows it has"))
            .help("say how many rows to answer: --limit N"));
    }
    let (mut source, mut rows) = (Examples::open(job, name)?, Vec::new());
    while rows.len() < limit.unwrap_or(usize::MAX) {
        require_not_cancelled(cancelled)?;
        match source.next()? {
            Some(example) => rows.push(example),
            None => break,
        }
    }
    if source.skipped > 0 {
        progress::note(&format!("warning: {} skipped in {name}", counted(source.skipped, "bad row")));
    }
    Ok(rows)
}

fn require_not_cancelled(cancelled: &AtomicBool) -> Result<(), Failure> {
    if cancelled.load(Ordering::Relaxed) { Err(Failure::new(Status::Interrupted, "interrupted")) } else { Ok(()) }
}
