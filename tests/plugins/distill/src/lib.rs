//! Distillation: the trainer `distill`. The student learns the distribution of each next token from a teacher that the
//! configuration names: `trainer.models.teacher = { path = "…" }`.

use mdt_plugin_api::prelude::*;

mdt_plugin_api::config! {
    /// The trainer `distill` has no keys of its own.
    pub struct Config {}
}

struct Distill(SharedTokenizer);

impl Component for Distill {
    type Config = Config;

    fn create(_config: Config, setup: &Setup) -> Result<Self> {
        Ok(Self(setup.tokenizer()?.clone()))
    }
}

impl Trainer for Distill {
    fn encode(&self, example: &Example) -> Result<Vec<Item>> {
        let completed = self.0.complete(example.text("prompt")?, example.text("completion")?)?;
        Ok(vec![Item::of(completed.tokens, completed.completion)])
    }

    fn collate(&self, rows: &BatchRows<'_>) -> Result<HostBatch> {
        let mut batch = HostBatch::default();
        batch.add_sequences(rows, Item::TOKENS)?;
        Ok(batch)
    }

    /// Σ over trained tokens of KL(teacher ‖ student), in nats.
    fn loss(&self, ctx: &TrainerContext, batch: &Batch) -> Result<Loss> {
        let log_probs = |model: &LanguageModel| model.head(&model.predicting(batch, Item::TOKENS)?)?.log_softmax(-1);
        let [student, teacher] = [log_probs(ctx)?, log_probs(&ctx.model("teacher")?)?];
        let each = (&teacher.exp()? * &(&teacher - &student)?)?.sum_axis(-1)?;
        Ok(Loss { sum: each.sum()?, weight: batch.get("tokens.mask")?.sum()?, metrics: Vec::new() })
    }
}

mdt_plugin_api::plugin! { trainer "distill" => Distill; }
