//! Draws answers from a model, a function of its weights, the prompt and a seed alone.

use std::cell::RefCell;
use std::rc::Rc;

use mdt_plugin_api::{Dtype, Error, Generated, Generation, Result, Sampling};

use super::draw::{Drawing, log_probability};
use crate::model::{Cache, TrainedModel};
use crate::random::Stream;
use crate::staging;

/// The first answer that was drawn: the prompt, and what was drawn.
pub type FirstDrawn = Rc<RefCell<Option<(Vec<u32>, Vec<u32>)>>>;

/// A model that draws answers. Compute thread only.
pub struct Sampler {
    pub model: TrainedModel,
    /// Where the first answer is kept, unless there is one already.
    pub first: FirstDrawn,
}

impl Generation for Sampler {
    fn generate(&self, prompt: &[u32], sampling: &Sampling) -> Result<Vec<Generated>> {
        let &Sampling { count, max_tokens, temperature, seed, .. } = sampling;
        if prompt.is_empty() || count == 0 {
            return Err(Error::plugin("answers are drawn to a prompt of at least one token, and at least one of them"));
        }
        if !(temperature.is_finite() && temperature >= 0.0) {
            return Err(Error::plugin(format!(
                "answers are drawn at a temperature of {temperature}, which must be 0 or more"
            )));
        }
        let drawing = Drawing { temperature, ..Drawing::default() };
        let mut streams: Vec<Stream> = (0..count).map(|answer| Stream::new(seed, "answer", answer as u64)).collect();
        let mut answers = vec![Generated::default(); count];
        let mut cache = Cache::default();
        let mut next: Vec<i32> = prompt.iter().map(|&token| token as i32).cycle().take(count * prompt.len()).collect();
        let ended = |answer: &Generated| answer.tokens.last().is_some_and(|token| sampling.stop.contains(token));
        for _ in 0..max_tokens {
            let logits = self.next_logits(&next, count, &mut cache)?;
            let rows = logits.chunks_exact(logits.len() / count);
            next.truncate(count);
            for ((answer, row), (stream, next)) in answers.iter_mut().zip(rows).zip(streams.iter_mut().zip(&mut next)) {
                if !ended(answer) {
                    let token = drawing.token(row, &[], stream)?;
                    answer.tokens.push(token);
                    answer.log_probs.push(log_probability(row, token));
                    *next = token as i32;
                }
            }
            if answers.iter().all(ended) {
                break;
            }
        }
        self.first.borrow_mut().get_or_insert_with(|| (prompt.to_vec(), answers[0].tokens.clone()));
        Ok(answers)
    }
}

impl Sampler {
    /// The logits `[count, V]` after these tokens `[count, T]`, which follow what is in the cache.
    fn next_logits(&self, tokens: &[i32], count: usize, cache: &mut Cache) -> Result<Vec<f32>> {
        staging::copy(&self.model.next_logits(tokens, count, cache)?.cast(Dtype::F32)?)
    }
}
