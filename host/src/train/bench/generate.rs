//! `mdt-host bench generate`: how fast a model answers.

use std::fmt;

use serde::Serialize;

use super::Spread;
use crate::exit::Failure;
use crate::generation::{Generator, Options, Unheard};
use crate::job::Job;
use crate::metrics;
use crate::random::Stream;
use crate::train::estimate::{self, Work};

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Prompts that are answered together.
    pub batch_size: usize,
    /// Tokens of each.
    pub prompt: usize,
    /// Tokens of each answer.
    pub answer: usize,
}

/// The figures of [`generate`].
#[derive(Debug, Serialize)]
pub struct GenerateFigures {
    /// Tokens of all prompts by the time until the first token of each answer.
    pub prompt_tokens_per_s: f64,
    /// Tokens of all answers by the time after that.
    pub answer_tokens_per_s: f64,
    pub prompt: Spread,
    pub answer: Spread,
    pub peak_memory_bytes: Option<u64>,
}

/// Answers random prompts so many times, after once that is not measured: the most likely tokens, up to the length that is asked.
/// With `force` also where memory seems to be too small.
///
/// # Errors
/// What `generate` would say.
pub fn generate(job: &Job, request: Request, times: u32, force: bool) -> Result<GenerateFigures, Failure> {
    let Request { batch_size, prompt, answer } = request;
    let opened = job.open_model(job.compute()?)?.to_be_used_only();
    let mut stream = Stream::new(job.resolved.settings.seed, "bench", 0);
    let vocabulary = opened.model.spec().vocabulary_size as u64;
    let mut tokens = || (0..prompt).map(|_| stream.below(vocabulary) as u32).collect();
    let prompts: Vec<Vec<u32>> = (0..batch_size).map(|_| tokens()).collect();
    estimate::admit(job, &opened, Work::Answers(&prompts), force)?;
    let generator = Generator::new(&opened, opened.weights()?)?;
    let options = Options { max_tokens: answer, goes_on: true, ..Options::default() };
    let (mut prompt_s, mut answer_s) = (Vec::new(), Vec::new());
    for time in 0..=times {
        let speed = generator.answers(&prompts, &options, &mut Unheard)?.speed;
        if time > 0 {
            prompt_s.push(speed.prompt_time.as_secs_f64());
            answer_s.push(speed.answer_time.as_secs_f64());
        }
    }
    let (prompt_time, answer_time) = (Spread::of(prompt_s), Spread::of(answer_s));
    Ok(GenerateFigures {
        prompt_tokens_per_s: (batch_size * prompt) as f64 / prompt_time.s_median,
        answer_tokens_per_s: (batch_size * answer.saturating_sub(1)) as f64 / answer_time.s_median,
        prompt: prompt_time,
        answer: answer_time,
        peak_memory_bytes: metrics::peak_memory_bytes(),
    })
}

impl fmt::Display for GenerateFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { prompt_tokens_per_s, answer_tokens_per_s, prompt, answer, peak_memory_bytes } = self;
        writeln!(f, "prompts  {prompt_tokens_per_s:.0} tokens/s: {prompt}")?;
        writeln!(f, "answers  {answer_tokens_per_s:.1} tokens/s: {answer}")?;
        write!(f, "peak memory {} MiB", peak_memory_bytes.unwrap_or_default() >> 20)
    }
}
