//! Answers with a score: the trainer `value_head`. Beside the cross-entropy of an answer, the model learns with a linear layer
//! of the trainer's own what score the answer will have, at each of its tokens.

use mdt_plugin_api::prelude::*;

mdt_plugin_api::config! {
    /// Keys of the trainer `value_head`.
    pub struct Config {
        /// How much the squared error of a value counts beside the cross-entropy of its token.
        value_weight: f64 [0.0..] = 0.1,
        /// Whether the value head begins with ones and not at random.
        ones: bool = false,
    }
}

const HEAD: &str = "value_head";

struct ValueHead {
    config: Config,
    tokenizer: SharedTokenizer,
}

impl Component for ValueHead {
    type Config = Config;

    fn create(config: Config, setup: &Setup) -> Result<Self> {
        Ok(Self { config, tokenizer: setup.tokenizer()?.clone() })
    }
}

impl Trainer for ValueHead {
    fn encode(&self, example: &Example) -> Result<Vec<Item>> {
        let completed = self.tokenizer.complete(example.text("prompt")?, example.text("completion")?)?;
        let item = Item::of(completed.tokens, completed.completion);
        Ok(vec![item.with_numbers("score", [example.number("score")?])])
    }

    fn collate(&self, rows: &BatchRows<'_>) -> Result<HostBatch> {
        let mut batch = HostBatch::default();
        batch.add_sequences(rows, Item::TOKENS)?;
        let mut scores = Vec::new();
        for item in rows.items() {
            scores.extend(vec![item.number("score")? as f32; item.supervised_tokens()]);
        }
        batch.add("scores", &[scores.len(), 1], &scores)?;
        Ok(batch)
    }

    /// Σ over the tokens of answers of `-log p(token) + value_weight · (value - score)²`.
    fn loss(&self, ctx: &TrainerContext, batch: &Batch) -> Result<Loss> {
        let hidden = ctx.predicting(batch, Item::TOKENS)?;
        let losses = ctx.token_losses(&hidden, batch.get("tokens.targets")?)?;
        let squares = (&ctx.linear(HEAD, &hidden)? - batch.get("scores")?)?.square()?;
        Ok(Loss {
            sum: (&losses.sum()? + &squares.sum()?.multiply(self.config.value_weight)?)?,
            weight: batch.get("tokens.mask")?.sum()?,
            metrics: vec![Metric::mean("value_error", &squares)?],
        })
    }
}

impl TrainerParameters for ValueHead {
    fn parameters(&self, model: &ModelSpec) -> Result<Vec<ParameterSpec>> {
        let init = if self.config.ones { Init::Ones } else { Init::Normal { std: 0.02 } };
        let weight = ParameterSpec::new(format!("{HEAD}.weight"), [1, model.hidden_size()?], Role::Linear, init);
        Ok(vec![weight, ParameterSpec::new(format!("{HEAD}.bias"), [1], Role::Other, Init::Zeros)])
    }
}

impl Evaluation for ValueHead {
    /// The value at the last token of each answer.
    fn evaluate(&self, ctx: &PrepareContext, items: &[&Item]) -> Result<Vec<(String, f64, f64)>> {
        let mut sum = 0.0;
        for item in items {
            let tokens: Vec<i32> = item.sequence(Item::TOKENS)?.tokens.iter().map(|&token| token as i32).collect();
            let tokens = Tensor::from_host(ctx.compute(), &HostArray::new(&[1, tokens.len()], &tokens)?)?;
            let values = ctx.linear(HEAD, &ctx.hidden(&tokens, None, None)?)?;
            sum += f64::from(values.to_vec::<f32>()?.last().copied().unwrap_or(0.0));
        }
        Ok(vec![("last_value".to_owned(), sum, items.len() as f64)])
    }
}

mdt_plugin_api::plugin! { trainer "value_head" => ValueHead: parameters, evaluation; }
