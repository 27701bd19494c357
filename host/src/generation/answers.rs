//! Answers to prompts, several at once: rows of unequal length in one pass, each with the answer that it has alone.

use std::time::{Duration, Instant};

use mdt_plugin_api::{Dtype, Error, Result, SharedTokenizer};

use super::draw::Drawing;
use super::stop::StopTexts;
use super::text::AnswerText;
use crate::exit::Failure;
use crate::job::OpenedModel;
use crate::model::{Cache, Parameters, TrainedModel};
use crate::random::Stream;
use crate::staging;

/// What stands before shorter prompts. No other token sees it, so any id does.
const PADDING: i32 = 0;

/// How answers are made.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Maximum length of an answer, in tokens.
    pub max_tokens: usize,
    /// How tokens are drawn.
    pub drawing: Drawing,
    /// An answer is a function of the weights, its prompt and this number alone.
    pub seed: u64,
    /// Texts that end an answer, beside the tokens that do.
    pub stop: Vec<String>,
    /// Whether every answer is as long as it may be, whatever would end it.
    pub goes_on: bool,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The model ended it.
    Token,
    /// One of the texts in [`Options::stop`] was reached.
    Text,
    /// It is as long as it may be, or the model has learnt no further position.
    Length,
    /// The user interrupted it.
    Interrupted,
}

impl End {
    /// Its name for scripts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Token => "end_token",
            Self::Text => "stop_text",
            Self::Length => "max_tokens",
            Self::Interrupted => "interrupted",
        }
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its text, without what ended it.
    pub text: String,
    /// Its tokens, without the one that ended it.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub end: End,
}

/// Answers to several prompts.
#[derive(Debug, Default)]
pub struct Answers {
    /// One for each prompt, in their order.
    pub answers: Vec<Answer>,
    /// How long they took.
    pub speed: Speed,
}

/// How much was computed, and how long it took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Speed {
    /// Tokens of the prompts.
    pub prompt_tokens: usize,
    /// The time until the first token of each answer was drawn.
    pub prompt_time: Duration,
    /// Tokens that were drawn after the first ones.
    pub answer_tokens: usize,
    /// The time that these took.
    pub answer_time: Duration,
}

impl Speed {
    /// Adds another batch.
    pub fn add(&mut self, other: Self) {
        self.prompt_tokens += other.prompt_tokens;
        self.prompt_time += other.prompt_time;
        self.answer_tokens += other.answer_tokens;
        self.answer_time += other.answer_time;
    }
}

/// What learns of answers while they are made.
pub trait Listener {
    /// More text of the answer to the prompt of this number.
    fn text(&mut self, prompt: usize, text: &str) -> Result<(), Failure>;

    /// Whether the answers end here.
    fn is_interrupted(&self) -> bool;
}

/// A listener to one prompt of several that are answered one after the other.
struct OfOne<'a> {
    number: usize,
    listener: &'a mut dyn Listener,
}

impl Listener for OfOne<'_> {
    fn text(&mut self, _: usize, text: &str) -> Result<(), Failure> {
        self.listener.text(self.number, text)
    }

    fn is_interrupted(&self) -> bool {
        self.listener.is_interrupted()
    }
}

/// Nobody listens, and nothing is interrupted.
pub struct Unheard;

impl Listener for Unheard {
    fn text(&mut self, _: usize, _: &str) -> Result<(), Failure> {
        Ok(())
    }

    fn is_interrupted(&self) -> bool {
        false
    }
}

/// A model that continues prompts. Compute thread only.
pub struct Generator {
    model: TrainedModel,
    tokenizer: SharedTokenizer,
    /// The tensors that the model's weights refer to, kept alive here.
    _parameters: Parameters,
}

/// A prompt and its answer so far.
struct Row {
    /// The number of its prompt.
    prompt: usize,
    /// All tokens, those of the prompt included.
    tokens: Vec<u32>,
    text: AnswerText,
    stream: Stream,
    end: Option<End>,
}

impl Generator {
    /// A generator over these weights.
    pub fn new(opened: &OpenedModel, parameters: Parameters) -> Result<Self> {
        let OpenedModel { compute, model, tokenizer, .. } = opened;
        Ok(Self {
            model: TrainedModel::new(model, parameters.bind(), compute),
            tokenizer: tokenizer.clone(),
            _parameters: parameters,
        })
    }

    /// The answers to these prompts, made together.
    ///
    /// # Errors
    /// A prompt without tokens; logits that are not finite; an error of the listener.
    pub fn answers(
        &self,
        prompts: &[Vec<u32>],
        options: &Options,
        listener: &mut dyn Listener,
    ) -> Result<Answers, Failure> {
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        // A row that gets long has other keys, and others of the batch may not be there yet.
        let may_change = |limit: usize| longest.saturating_add(options.max_tokens) > limit;
        if prompts.len() > 1 && self.model.other_keys_beyond().is_some_and(may_change) {
            return self.answers_one_by_one(prompts, options, listener);
        }
        let padding: Vec<usize> = prompts.iter().map(|prompt| longest - prompt.len()).collect();
        let padded = prompts.iter().zip(&padding).flat_map(|(prompt, &padding)| {
            std::iter::repeat_n(PADDING, padding).chain(prompt.iter().map(|&token| token as i32))
        });
        let (given, mut cache) = (padded.collect(), Cache::after_padding(padding));
        self.continue_rows(prompts, given, &mut cache, options, listener)
    }

    /// The same, each alone.
    fn answers_one_by_one(
        &self,
        prompts: &[Vec<u32>],
        options: &Options,
        listener: &mut dyn Listener,
    ) -> Result<Answers, Failure> {
        let mut all = Answers::default();
        for (number, prompt) in prompts.iter().enumerate() {
            let mut of_one = OfOne { number, listener: &mut *listener };
            let Answers { answers, speed } = self.answers(std::slice::from_ref(prompt), options, &mut of_one)?;
            all.answers.extend(answers);
            all.speed.add(speed);
        }
        Ok(all)
    }

    /// See [`TrainedModel::keys_change`].
    pub(super) fn keys_change(&self, cached: usize, length: usize) -> bool {
        self.model.keys_change(cached, length)
    }

    /// The answer to a prompt, whose first tokens are in the cache.
    pub(super) fn continued(
        &self,
        prompt: &[u32],
        cache: &mut Cache,
        options: &Options,
        listener: &mut dyn Listener,
    ) -> Result<Answer, Failure> {
        let given = prompt.iter().skip(cache.length()).map(|&token| token as i32).collect();
        let mut answers = self.continue_rows(&[prompt.to_vec()], given, cache, options, listener)?.answers;
        answers.pop().ok_or_else(Failure::internal)
    }

    /// Answers to prompts of which `given` is not in the cache yet, `[rows, T]`.
    fn continue_rows(
        &self,
        prompts: &[Vec<u32>],
        mut given: Vec<i32>,
        cache: &mut Cache,
        options: &Options,
        listener: &mut dyn Listener,
    ) -> Result<Answers, Failure> {
        if prompts.iter().any(Vec::is_empty) {
            return Err(Error::input("a prompt has no tokens: there is nothing to continue").into());
        }
        let positions = self.model.max_positions().unwrap_or(usize::MAX);
        if let Some(prompt) = prompts.iter().find(|prompt| prompt.len() > positions) {
            let message =
                format!("a prompt has {} tokens, and the model has learnt {positions} positions", prompt.len());
            return Err(Error::input(message).help("give a shorter prompt").into());
        }
        let begin = Instant::now();
        let mut speed = Speed { prompt_tokens: prompts.iter().map(Vec::len).sum(), ..Speed::default() };
        let mut rows: Vec<Row> = (0..).zip(prompts).map(|(number, prompt)| self.row(number, prompt, options)).collect();
        let mut ended: Vec<Row> = Vec::new();
        while !rows.iter().all(|row| row.end.is_some()) {
            if rows.iter().any(|row| row.tokens.len() > prompts[row.prompt].len()) {
                speed.answer_tokens += rows.iter().filter(|row| row.end.is_none()).count();
            }
            let logits = self.next_logits(&given, rows.len(), cache, &|| listener.is_interrupted())?;
            let Some(logits) = logits else {
                rows.iter_mut().for_each(|row| row.end = row.end.or(Some(End::Interrupted)));
                break;
            };
            let width = logits.len() / rows.len();
            for (row, logits) in rows.iter_mut().zip(logits.chunks_exact(width)) {
                if row.end.is_none() {
                    let text = self.advance(row, logits, options)?;
                    if row.tokens.len() >= positions {
                        row.end = row.end.or(Some(End::Length));
                    }
                    listener.text(row.prompt, &text)?;
                }
            }
            if speed.prompt_time.is_zero() {
                speed.prompt_time = begin.elapsed();
            }
            if listener.is_interrupted() {
                rows.iter_mut().for_each(|row| row.end = row.end.or(Some(End::Interrupted)));
            }
            let alive: Vec<usize> = (0..rows.len()).filter(|&row| rows[row].end.is_none()).collect();
            // Rows that have ended cost as much as others. They are left out once they are half of all: that copies the rest.
            if alive.len() * 2 <= rows.len() && !alive.is_empty() && cache.keep_rows(&alive)? {
                let (kept, others) = rows.into_iter().partition(|row| row.end.is_none());
                rows = kept;
                ended.extend::<Vec<Row>>(others);
            }
            given = rows.iter().map(|row| row.tokens.last().map_or(PADDING, |&token| token as i32)).collect();
        }
        speed.answer_time = begin.elapsed() - speed.prompt_time;
        ended.extend(rows);
        ended.sort_by_key(|row| row.prompt);
        let finish = |mut row: Row| -> Result<Answer, Failure> {
            listener.text(row.prompt, row.text.finish()?)?;
            let end = if row.text.is_stopped() { End::Text } else { row.end.unwrap_or(End::Length) };
            Ok(Answer { tokens: row.text.tokens().to_vec(), text: row.text.into_text(), end })
        };
        Ok(Answers { answers: ended.into_iter().map(finish).collect::<Result<_, _>>()?, speed })
    }

    fn row(&self, number: usize, prompt: &[u32], options: &Options) -> Row {
        Row {
            prompt: number,
            tokens: prompt.to_vec(),
            text: AnswerText::new(&self.tokenizer, StopTexts::new(&options.stop)),
            // The same for each prompt, whatever others stand beside it.
            stream: Stream::new(options.seed, "answer", 0),
            end: (options.max_tokens == 0).then_some(End::Length),
        }
    }

    /// Draws the next token of a row; returns the text that is certain now.
    fn advance(&self, row: &mut Row, logits: &[f32], options: &Options) -> Result<String> {
        let token = options.drawing.token(logits, &row.tokens, &mut row.stream)?;
        if !options.goes_on && self.tokenizer.vocabulary().stop.contains(&token) {
            row.end = Some(End::Token);
            return Ok(String::new());
        }
        row.tokens.push(token);
        let text = row.text.push(token)?.to_owned();
        if row.text.is_stopped() {
            row.end = Some(End::Text);
        } else if row.text.tokens().len() == options.max_tokens {
            row.end = Some(End::Length);
        }
        Ok(text)
    }

    /// The logits `[rows, V]` after these tokens `[rows, T]`, which follow what is in the cache; none after an interruption.
    fn next_logits(
        &self,
        tokens: &[i32],
        rows: usize,
        cache: &mut Cache,
        is_interrupted: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<f32>>> {
        let logits = self.model.next_logits_unless(is_interrupted, tokens, rows, cache)?;
        logits.map(|logits| staging::copy(&logits.cast(Dtype::F32)?)).transpose()
    }
}
