//! Direct preference optimisation (Rafailov et al. 2023, <https://arxiv.org/abs/2305.18290>), the trainer `dpo`.
//!
//! A row has a `prompt` and two answers to it, `chosen` and `rejected`. The loss is `-log sigmoid(beta · margin)`, where the
//! margin is how much more the model prefers the chosen answer than the model that training began with does.

use mdt_plugin_api::prelude::*;

mdt_plugin_api::config! {
    /// Keys of the trainer `dpo`.
    pub struct Config {
        /// How strongly the model is held to the one that training began with.
        beta: f64 = 0.1,
    }
}

struct Dpo {
    beta: f64,
    tokenizer: SharedTokenizer,
}

impl Component for Dpo {
    type Config = Config;

    fn create(config: Config, setup: &Setup) -> Result<Self> {
        if !(config.beta.is_finite() && config.beta > 0.0) {
            return Err(Error::config("beta must be a number above 0").with("key", "trainer.beta"));
        }
        Ok(Self { beta: config.beta, tokenizer: setup.tokenizer()?.clone() })
    }
}

impl Trainer for Dpo {
    fn encode(&self, example: &Example) -> Result<Vec<Item>> {
        let prompt = example.text("prompt")?;
        let answer = |name| self.tokenizer.complete(prompt, example.text(name)?);
        let [chosen, rejected] = [answer("chosen")?, answer("rejected")?];
        let item = Item::default().with("chosen", chosen.tokens, chosen.completion);
        Ok(vec![item.with("rejected", rejected.tokens, rejected.completion)])
    }

    fn collate(&self, rows: &BatchRows<'_>) -> Result<HostBatch> {
        let mut batch = HostBatch::default();
        batch.add_sequences(rows, "chosen")?;
        batch.add_sequences(rows, "rejected")?;
        Ok(batch)
    }

    fn loss(&self, ctx: &TrainerContext, batch: &Batch) -> Result<Loss> {
        let reference = ctx.reference()?;
        // beta · (log p(answer) - log p_reference(answer)) of each row.
        let reward = |name| {
            let of = |model: &LanguageModel| model.log_probs(batch, name)?.sum_axis(1);
            &(&of(ctx)? - &of(&reference)?)? * self.beta
        };
        let [chosen, rejected] = [reward("chosen")?, reward("rejected")?];
        let margin = (&chosen - &rejected)?;
        let pairs = margin.shape()?.iter().product::<usize>();
        Ok(Loss {
            sum: margin.log_sigmoid()?.negative()?.sum()?,
            weight: Tensor::full(ctx.compute(), &[], pairs as f64, Dtype::F32)?,
            metrics: vec![
                Metric::mean("rewards/chosen", &chosen)?,
                Metric::mean("rewards/rejected", &rejected)?,
                Metric::mean("rewards/margins", &margin)?,
                Metric::mean("rewards/accuracies", &margin.greater(0.0)?)?,
            ],
        })
    }
}

impl Reference for Dpo {
    fn needs_reference(&self) -> bool {
        true
    }
}

mdt_plugin_api::plugin! { trainer "dpo" => Dpo: reference; }
