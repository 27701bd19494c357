//! Greedy generation: the most likely token at each step.

use mdt_plugin_api::{Dtype, Error, ErrorCode, Example, Result, SharedTokenizer};

use crate::job::OpenedModel;
use crate::model::{Cache, Parameters, TrainedModel};

/// A model that continues prompts. Compute thread only.
pub struct Generator {
    model: TrainedModel,
    tokenizer: SharedTokenizer,
    /// The tensors that the model's weights refer to, kept alive here.
    _parameters: Parameters,
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

    /// The answer to an example's prompt, of at most `max_tokens` tokens.
    pub fn answer(&self, prompt: &Example, max_tokens: usize) -> Result<String> {
        let mut next = self.tokenizer.encode_prompt(prompt)?;
        let mut cache = Cache::default();
        let mut answer = Vec::new();
        while answer.len() < max_tokens {
            let token = self.most_likely(&next, &mut cache)?;
            if self.tokenizer.vocabulary().stop.contains(&token) {
                break;
            }
            answer.push(token);
            next = vec![token];
        }
        self.tokenizer.decode(&answer)
    }

    /// The most likely token after these, which follow what is in the cache.
    fn most_likely(&self, tokens: &[u32], cache: &mut Cache) -> Result<u32> {
        let ids: Vec<i32> = tokens.iter().map(|&token| token as i32).collect();
        let logits = self.model.next_logits(&ids, 1, cache)?;
        // The sum is finite only if all of them are; the largest of numbers that are not is no answer.
        if !logits.cast(Dtype::F32)?.sum()?.item()?.is_finite() {
            return Err(Error::new(ErrorCode::NonFinite, "the model's logits are not finite")
                .help("its weights are damaged, by a training that diverged or in a conversion"));
        }
        Ok(logits.argmax(-1)?.item()? as u32)
    }
}
