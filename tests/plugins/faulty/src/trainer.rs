//! A trainer over bytes whose loss can be given other numbers than it should have.

use mdt_plugin_api::prelude::*;

mdt_plugin_api::config! {
    /// Keys of the trainer `bytes`.
    pub struct BytesConfig {
        /// The weight of every loss instead of the number of supervised tokens, as text: a configuration has no NaN.
        weight: Option<String> = None,
        /// The weight of a loss with an odd number of supervised tokens instead of that number.
        odd_weight: Option<f64> = None,
        /// A factor of the loss.
        scale: f64 = 1.0,
        /// Whether the loss has metrics: `all`, and `odd` or `even` by the number of supervised tokens.
        metrics: bool = false,
        /// Whether the loss has the metric `undefined`, which is NaN.
        undefined_metric: bool = false,
        /// Whether a supervised token is looked for behind the end of the batch.
        place_beyond_the_end: bool = false,
        /// Whether the loss is left as one number for each supervised token.
        not_summed: bool = false,
        /// Whether the loss asks the device for a product of shapes that do not fit.
        product_of_unlike: bool = false,
        /// Whether `collate` reports `odd_tokens` or `even_tokens`: their number of supervised tokens.
        reports: bool = false,
    }
}

/// Each byte of prompt and completion is a token; the completion is trained.
pub struct Bytes {
    config: BytesConfig,
    services: Services,
}

impl Component for Bytes {
    type Config = BytesConfig;

    fn create(config: BytesConfig, setup: &Setup) -> Result<Self> {
        Ok(Self { config, services: setup.services.clone() })
    }
}

fn tokens(text: &str) -> impl Iterator<Item = u32> {
    text.bytes().map(|byte| u32::from(byte % 100))
}

impl Trainer for Bytes {
    fn encode(&self, example: &Example) -> Result<Vec<Item>> {
        let (prompt, completion) = (example.text("prompt")?, example.text("completion")?);
        let tokens: Vec<u32> = tokens(prompt).chain(tokens(completion)).collect();
        let supervised = (0..tokens.len()).map(|place| place >= prompt.len()).collect();
        Ok(vec![Item::of(tokens, supervised)])
    }

    fn collate(&self, rows: &BatchRows<'_>) -> Result<HostBatch> {
        let rows: Vec<_> = rows.items().iter().map(|item| &item.sequences[0]).collect();
        let length = rows.iter().map(|row| row.tokens.len()).max().unwrap_or(0);
        let mut tokens = vec![0; rows.len() * length];
        let (mut places, mut targets) = (Vec::new(), Vec::new());
        for (start, row) in (0..).step_by(length).zip(&rows) {
            for (at, (&token, &supervised)) in row.tokens.iter().zip(&row.supervised).enumerate() {
                tokens[start + at] = token as i32;
                if supervised {
                    places.push((start + at - 1) as i32);
                    targets.push(token as i32);
                }
            }
        }
        if self.config.place_beyond_the_end {
            places[0] = tokens.len() as i32;
        }
        if self.config.reports {
            let name = if targets.len() % 2 == 1 { "odd_tokens" } else { "even_tokens" };
            self.services.metric(name, targets.len() as f64);
        }
        Ok(HostBatch {
            tokens: rows.iter().map(|row| row.tokens.len() as u64).sum(),
            supervised_tokens: targets.len() as u64,
            arrays: vec![
                ("tokens".into(), HostArray::new(&[rows.len(), length], &tokens)?),
                ("places".into(), HostArray::new(&[places.len()], &places)?),
                ("targets".into(), HostArray::new(&[targets.len()], &targets)?),
            ],
        })
    }

    fn loss(&self, ctx: &TrainerContext, batch: &Batch) -> Result<Loss> {
        let targets = batch.get("targets")?;
        let hidden = ctx.hidden(batch.get("tokens")?, None, None)?;
        let width = hidden.shape()?.last().copied().unwrap_or(1);
        let supervised = hidden.reshape(&[-1, width as i64])?.take(batch.get("places")?, 0)?;
        if self.config.product_of_unlike {
            supervised.matmul(&supervised)?;
        }
        let losses = ctx.head(&supervised)?.cross_entropy(targets)?;
        let number = |value: f64| Tensor::full(ctx.compute(), &[], value, Dtype::F32);
        let count: usize = targets.shape()?.iter().product();
        let odd = count % 2 == 1;
        let mut metrics = Vec::new();
        if self.config.metrics {
            // Their order and their names are not those of every micro-batch.
            let own = if odd { "odd" } else { "even" };
            let own = Metric { name: own.to_owned(), sum: number(count as f64)?, weight: number(1.0)? };
            metrics.push(Metric { name: "all".to_owned(), sum: number(count as f64)?, weight: number(1.0)? });
            metrics.insert(usize::from(odd), own);
        }
        if self.config.undefined_metric {
            metrics.push(Metric { name: "undefined".to_owned(), sum: number(f64::NAN)?, weight: number(1.0)? });
        }
        let weight = self.config.weight.as_ref().and_then(|weight| weight.parse().ok());
        let given = self.config.odd_weight.filter(|_| odd).or(weight);
        let sum = if self.config.not_summed { losses } else { losses.sum()? };
        Ok(Loss { sum: sum.multiply(self.config.scale)?, weight: number(given.unwrap_or(count as f64))?, metrics })
    }
}
