//! Group relative policy optimisation (Shao et al. 2024, <https://arxiv.org/abs/2402.03300>), the trainer `grpo`, on a toy
//! reward: the share of an answer's characters that are the digit that is asked for.
//!
//! Of each prompt the model draws a group of answers. What an answer's reward has above the mean of its group, in standard
//! deviations, is its advantage, and the loss raises the probability of the tokens of answers with a high one.

use mdt_plugin_api::prelude::*;

mdt_plugin_api::config! {
    /// Keys of the trainer `grpo`.
    pub struct Config {
        /// Answers that are drawn to each prompt.
        group: usize = 8,
        /// Maximum length of an answer, in tokens.
        max_tokens: usize = 16,
        /// What logits are divided by when answers are drawn.
        temperature: f64 = 1.0,
        /// How far the probability of a token may move from that with which it was drawn before its gradient is cut off.
        epsilon: f64 = 0.2,
        /// The character that answers are rewarded for.
        digit: String = "7".into(),
    }
}

struct Grpo {
    config: Config,
    tokenizer: SharedTokenizer,
}

impl Component for Grpo {
    type Config = Config;

    fn create(config: Config, setup: &Setup) -> Result<Self> {
        if config.group < 2 || config.max_tokens == 0 {
            return Err(Error::config("a group has at least 2 answers, each of at least one token")
                .with("key", "trainer.group, trainer.max_tokens"));
        }
        Ok(Self { config, tokenizer: setup.tokenizer()?.clone() })
    }
}

impl Grpo {
    /// The share of the answer's characters that are the digit.
    fn reward(&self, answer: &str) -> f64 {
        let all = answer.chars().count().max(1);
        answer.matches(&self.config.digit).count() as f64 / all as f64
    }
}

impl Trainer for Grpo {
    fn encode(&self, example: &Example) -> Result<Vec<Item>> {
        let tokens = self.tokenizer.encode_prompt(example)?;
        let supervised = vec![false; tokens.len()];
        Ok(vec![Item::of(tokens, supervised)])
    }

    fn collate(&self, rows: &BatchRows<'_>) -> Result<HostBatch> {
        let (mut batch, items) = (HostBatch::default(), rows.items());
        batch.add_sequences(rows, Item::TOKENS)?;
        let (_, mask) = batch.arrays.last().ok_or_else(|| Error::plugin("there is no mask"))?;
        let shape = mask.shape().to_vec();
        let (mut old, mut advantages) = (vec![0.0_f32; shape.iter().product()], Vec::new());
        for (item, row) in items.iter().zip(old.chunks_mut(shape[1])) {
            advantages.push(item.number("advantage")? as f32);
            row.iter_mut().zip(item.numbers("log_probs")?).for_each(|(old, &new)| *old = new as f32);
        }
        let rewards = items.iter().map(|item| Ok(item.number("reward")? as f32)).collect::<Result<Vec<_>>>()?;
        batch.add("old", &shape, &old)?;
        batch.add("advantages", &[items.len(), 1], &advantages)?;
        batch.add("rewards", &[items.len()], &rewards)?;
        Ok(batch)
    }

    fn loss(&self, ctx: &TrainerContext, batch: &Batch) -> Result<Loss> {
        let number = |value: f64| Tensor::full(ctx.compute(), &[], value, Dtype::F32);
        let (mask, advantages) = (batch.get("tokens.mask")?, batch.get("advantages")?);
        let ratio = (&ctx.log_probs(batch, Item::TOKENS)? - batch.get("old")?)?.exp()?;
        let clipped = ratio.maximum(1.0 - self.config.epsilon)?.minimum(1.0 + self.config.epsilon)?;
        let gain = (&ratio * advantages)?.minimum(&(&clipped * advantages)?)?;
        Ok(Loss {
            sum: (&gain * mask)?.sum()?.negative()?,
            weight: mask.sum()?,
            metrics: vec![
                Metric::mean("reward", batch.get("rewards")?)?,
                Metric { name: "answer_tokens".into(), sum: mask.sum()?, weight: number(mask.shape()?[0] as f64)? },
            ],
        })
    }
}

impl Prepare for Grpo {
    fn prepare(&self, ctx: &PrepareContext, items: &[&Item]) -> Result<Vec<Item>> {
        let mut answered = Vec::new();
        for (place, item) in items.iter().enumerate() {
            let prompt = &item.sequence(Item::TOKENS)?.tokens;
            let answers = ctx.generate(
                prompt,
                &Sampling {
                    count: self.config.group,
                    max_tokens: self.config.max_tokens,
                    temperature: self.config.temperature,
                    seed: ctx.key(place as u64),
                    stop: self.tokenizer.vocabulary().stop.clone(),
                },
            )?;
            let texts = answers.iter().map(|answer| self.tokenizer.decode(&answer.tokens));
            let rewards = texts.map(|text| Ok(self.reward(&text?))).collect::<Result<Vec<f64>>>()?;
            let mean = rewards.iter().sum::<f64>() / rewards.len() as f64;
            let variance = rewards.iter().map(|reward| (reward - mean).powi(2)).sum::<f64>() / rewards.len() as f64;
            for (answer, reward) in answers.into_iter().zip(rewards) {
                let supervised = (0..prompt.len() + answer.tokens.len()).map(|at| at >= prompt.len()).collect();
                let item = Item::of([prompt.as_slice(), &answer.tokens].concat(), supervised);
                let log_probs: Vec<f64> = answer.log_probs.into_iter().map(f64::from).collect();
                let item = item.with_numbers("log_probs", log_probs).with_numbers("reward", [reward]);
                answered.push(item.with_numbers("advantage", [(reward - mean) / (variance.sqrt() + 1e-4)]));
            }
        }
        Ok(answered)
    }
}

mdt_plugin_api::plugin! { trainer "grpo" => Grpo: prepare; }
