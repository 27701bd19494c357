//! A conversation: each prompt continues the one before, so that only what is new in it is computed.

use super::answers::{Answer, Generator, Listener, Options};
use crate::exit::Failure;
use crate::model::Cache;

/// A model and what it has computed of the last prompt and its answer. Compute thread only.
pub struct Session<'a> {
    generator: &'a Generator,
    cache: Cache,
    /// The tokens in the cache.
    tokens: Vec<u32>,
}

impl<'a> Session<'a> {
    /// A conversation that has not begun.
    pub fn new(generator: &'a Generator) -> Self {
        Self { generator, cache: Cache::default(), tokens: Vec::new() }
    }

    /// The answer to a prompt, and how many tokens of the prompt were known already.
    pub fn answer(
        &mut self,
        prompt: &[u32],
        options: &Options,
        listener: &mut dyn Listener,
    ) -> Result<(Answer, usize), Failure> {
        let shared = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        // The logits after the last token are needed, so that one is always computed.
        let mut known = shared.min(prompt.len().saturating_sub(1));
        if self.generator.keys_change(self.cache.length(), prompt.len()) || !self.cache.truncate(known) {
            (self.cache, known) = (Cache::default(), 0);
        }
        let answer = self.generator.continued(prompt, &mut self.cache, options, listener);
        self.tokens.clear();
        match answer {
            Ok(answer) => {
                self.tokens.extend(prompt.iter().chain(&answer.tokens));
                // The last token that was drawn was not computed.
                self.tokens.truncate(self.cache.length());
                Ok((answer, known))
            }
            Err(failure) => {
                self.cache = Cache::default();
                Err(failure)
            }
        }
    }
}
