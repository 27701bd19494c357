//! A trainer that takes its time in `prepare`.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use mdt_plugin_api::prelude::*;

mdt_plugin_api::config! {
    /// Keys of the trainer `slow_to_prepare`.
    pub struct SlowConfig {
        /// How long one call of `prepare` takes, in all processes together.
        seconds: f64 [0.0..] = 0.0,
        /// A file by which only one process takes that time: the one that creates it and writes its number there.
        by_creating: String = String::new(),
        /// Whether that process takes it in every call.
        every_time: bool = false,
    }
}

/// The trainer `sft` for prompts and completions, which prepares items without changing them.
pub struct SlowToPrepare {
    config: SlowConfig,
    tokenizer: SharedTokenizer,
}

impl Component for SlowToPrepare {
    type Config = SlowConfig;

    fn create(config: SlowConfig, setup: &Setup) -> Result<Self> {
        Ok(Self { config, tokenizer: setup.tokenizer()?.clone() })
    }
}

impl Trainer for SlowToPrepare {
    fn encode(&self, example: &Example) -> Result<Vec<Item>> {
        let completed = self.tokenizer.complete(example.text("prompt")?, example.text("completion")?)?;
        Ok(vec![Item::of(completed.tokens, completed.completion)])
    }

    fn collate(&self, rows: &BatchRows<'_>) -> Result<HostBatch> {
        let mut batch = HostBatch::default();
        batch.add_sequences(rows, Item::TOKENS)?;
        Ok(batch)
    }

    fn loss(&self, ctx: &TrainerContext, batch: &Batch) -> Result<Loss> {
        let (losses, mask) = (ctx.trained_losses(batch, Item::TOKENS)?, batch.get("tokens.mask")?);
        Ok(Loss { sum: losses.sum()?, weight: mask.sum()?, metrics: Vec::new() })
    }
}

impl Prepare for SlowToPrepare {
    fn prepare(&self, _ctx: &PrepareContext, items: &[&Item]) -> Result<Vec<Item>> {
        let SlowConfig { seconds, by_creating, every_time } = &self.config;
        let number = std::process::id().to_string();
        if *seconds > 0.0 && fs::File::create_new(by_creating).is_ok() {
            fs::write(by_creating, number).map_err(|error| Error::other(error.to_string()))?;
            sleep(Duration::from_secs_f64(*seconds));
        } else if *every_time && fs::read_to_string(by_creating).is_ok_and(|creator| creator == number) {
            sleep(Duration::from_secs_f64(*seconds));
        }
        Ok(items.iter().copied().cloned().collect())
    }
}
