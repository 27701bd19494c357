//! Draws answers from a model, a function of its weights, the prompt and a seed alone.

use std::cell::RefCell;
use std::rc::Rc;

use mdt_plugin_api::{Dtype, Error, ErrorCode, Generated, Generation, Result, Sampling};

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
                    let (token, log_prob) = draw(row, temperature, stream)?;
                    answer.tokens.push(token);
                    answer.log_probs.push(log_prob);
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

/// A token from these logits, and its log-probability at a temperature of 1.
fn draw(logits: &[f32], temperature: f64, stream: &mut Stream) -> Result<(u32, f32)> {
    if !logits.iter().all(|logit| logit.is_finite()) {
        return Err(Error::new(ErrorCode::NonFinite, "the model's logits are not finite"));
    }
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // Computed in software, so that the bits are the same on every machine.
    let weights =
        |temperature: f64| logits.iter().map(move |&logit| libm::exp(f64::from(logit - largest) / temperature));
    let token = if temperature == 0.0 {
        logits.iter().position(|&logit| logit == largest)
    } else {
        let mut left = stream.uniform() * weights(temperature).sum::<f64>();
        let reached = |weight: f64| {
            left -= weight;
            left < 0.0
        };
        // Rounding may leave a rest after the last one.
        Some(weights(temperature).position(reached).unwrap_or(logits.len() - 1))
    };
    let token = token.ok_or_else(|| Error::plugin("the model has no logits"))?;
    let log_prob = f64::from(logits[token] - largest) - libm::log(weights(1.0).sum());
    Ok((token as u32, log_prob as f32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_drawn_as_often_as_they_are_likely() {
        let logits = [0.0, 2.0_f32.ln(), f32::MIN, 5.0_f32.ln()];
        let mut stream = Stream::new(1, "test", 0);
        let mut counts = [0; 4];
        for _ in 0..8000 {
            let (token, log_prob) = draw(&logits, 1.0, &mut stream).unwrap();
            counts[token as usize] += 1;
            let expected = [1.0, 2.0, 0.0, 5.0_f32][token as usize] / 8.0;
            assert!((log_prob - expected.ln()).abs() < 1e-6);
        }
        assert_eq!(counts[2], 0);
        for (count, expected) in [(counts[0], 1000), (counts[1], 2000), (counts[3], 5000)] {
            assert!((expected - 150..expected + 150).contains(&count), "{counts:?}");
        }
    }

    #[test]
    fn a_temperature_of_0_takes_the_most_likely_token() {
        let mut stream = Stream::new(1, "test", 0);
        assert_eq!(draw(&[1.0, 3.0, 2.0], 0.0, &mut stream).unwrap().0, 1);
        assert!(draw(&[1.0, f32::NAN], 1.0, &mut stream).is_err());
    }
}
