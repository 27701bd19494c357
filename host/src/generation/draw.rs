//! One token from logits: the repetition penalty, the temperature, then top-k, top-p and min-p, in the order and with the
//! meaning of transformers.

#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::collections::BTreeSet;

use mdt_plugin_api::{Error, ErrorCode, Result};

use crate::random::Stream;

/// How many of the most likely tokens top-p looks at first; twice as many each time that they are too few.
const FIRST: usize = 64;

/// How tokens are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drawing {
    /// What logits are divided by; 0 takes the most likely token each time.
    pub temperature: f64,
    /// Draws from this many of the most likely tokens, and from those that are as likely as the last of them.
    pub top_k: Option<usize>,
    /// Draws from the fewest of the most likely tokens whose probabilities add up to it; 1 keeps all.
    pub top_p: f64,
    /// Draws from tokens that are at least this fraction as likely as the most likely one; 0 keeps all.
    pub min_p: f64,
    /// What the logits of earlier tokens are divided by where they are above 0, and multiplied by where they are below
    /// (Keskar et al. 2019, "CTRL"); 1 changes nothing.
    pub repetition_penalty: f64,
    /// How many tokens back the penalty reaches, those of the prompt included; all where there is none.
    pub repetition_context: Option<usize>,
}

impl Default for Drawing {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            repetition_context: None,
        }
    }
}

/// A token that may be drawn, with its logit divided by the temperature.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    token: usize,
    score: f64,
}

impl Drawing {
    /// A token after `history`, which has the prompt and what was drawn so far.
    ///
    /// # Errors
    /// There are no logits, or one is not finite.
    pub fn token(&self, logits: &[f32], history: &[u32], stream: &mut Stream) -> Result<u32> {
        require_finite(logits)?;
        let penalised = self.penalised(logits, history);
        let logits = penalised.as_deref().unwrap_or(logits);
        if self.temperature == 0.0 {
            return Ok(most_likely(logits));
        }
        let kept = self.kept(logits);
        // The most likely token has the score 0, and always stays.
        let weights: Vec<f64> = kept.iter().map(|candidate| libm::exp(candidate.score)).collect();
        let mut left = stream.uniform() * weights.iter().sum::<f64>();
        let reached = |weight: &f64| {
            left -= weight;
            left < 0.0
        };
        // Rounding may leave a rest after the last one.
        Ok(kept[weights.iter().position(reached).unwrap_or(kept.len() - 1)].token as u32)
    }

    /// The logits with the repetition penalty; none where it changes nothing.
    fn penalised(&self, logits: &[f32], history: &[u32]) -> Option<Vec<f32>> {
        if self.repetition_penalty == 1.0 {
            return None;
        }
        let context = self.repetition_context.unwrap_or(history.len()).min(history.len());
        let earlier: BTreeSet<u32> = history[history.len() - context..].iter().copied().collect();
        let (mut logits, penalty) = (logits.to_vec(), self.repetition_penalty as f32);
        for token in earlier {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
            }
        }
        Some(logits)
    }

    /// The tokens that may be drawn, in the order of the vocabulary.
    fn kept(&self, logits: &[f32]) -> Vec<Candidate> {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let score = |logit: f32| f64::from(logit - largest) / self.temperature;
        let mut kept: Vec<Candidate> =
            logits.iter().enumerate().map(|(token, &logit)| Candidate { token, score: score(logit) }).collect();
        if let Some(count) = self.top_k.filter(|&count| count < kept.len()) {
            let (_, &mut last, _) = kept.select_nth_unstable_by(count.max(1) - 1, more_likely);
            kept.retain(|candidate| candidate.score >= last.score);
        }
        if self.top_p < 1.0 {
            keep_nucleus(&mut kept, self.top_p);
        }
        if self.min_p > 0.0 {
            kept.retain(|candidate| candidate.score == 0.0 || libm::exp(candidate.score) >= self.min_p);
        }
        kept.sort_unstable_by_key(|candidate| candidate.token);
        kept
    }
}

/// Keeps each token before which the more likely ones add up to less than `share`.
fn keep_nucleus(candidates: &mut Vec<Candidate>, share: f64) {
    // In the order of the vocabulary, so that the sum does not depend on how a filter before has moved them.
    candidates.sort_unstable_by_key(|candidate| candidate.token);
    // Computed in software, so that the bits are the same on every machine.
    let enough = share * candidates.iter().map(|candidate| libm::exp(candidate.score)).sum::<f64>();
    let mut count = FIRST;
    loop {
        count = count.min(candidates.len());
        if count < candidates.len() {
            candidates.select_nth_unstable_by(count - 1, more_likely);
        }
        candidates[..count].sort_unstable_by(more_likely);
        let mut before = 0.0;
        let is_beyond = |candidate: &Candidate| {
            let beyond = before >= enough;
            before += libm::exp(candidate.score);
            beyond
        };
        if let Some(end) = candidates[..count].iter().position(is_beyond) {
            // The most likely token always stays.
            return candidates.truncate(end.max(1));
        }
        if count == candidates.len() {
            return;
        }
        count *= 2;
    }
}

/// Puts the more likely token first; of two that are as likely, the one with the smaller id.
fn more_likely(a: &Candidate, b: &Candidate) -> Ordering {
    b.score.total_cmp(&a.score).then(a.token.cmp(&b.token))
}

/// The log-probability of a token in nats, at a temperature of 1 and without any filter.
pub fn log_probability(logits: &[f32], token: u32) -> f32 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| libm::exp(f64::from(logit - largest))).sum();
    (f64::from(logits[token as usize] - largest) - libm::log(sum)) as f32
}

fn most_likely(logits: &[f32]) -> u32 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|&logit| logit == largest).unwrap_or_default() as u32
}

fn require_finite(logits: &[f32]) -> Result<()> {
    if logits.is_empty() {
        return Err(Error::plugin("the model has no logits"));
    }
    if logits.iter().all(|logit| logit.is_finite()) {
        return Ok(());
    }
    Err(Error::new(ErrorCode::NonFinite, "the model's logits are not finite")
        .help("its weights are damaged, by a training that diverged or in a conversion"))
}
