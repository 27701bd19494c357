//! Supervised fine-tuning: the trainer `sft`.
//!
//! Rows are conversations, prompts with completions, or plain text. What is trained is what the assistant says, the
//! completion, or all of the text — each with the token that ends it. The loss is the cross-entropy of those tokens.

use std::sync::atomic::{AtomicBool, Ordering};

use mdt_plugin_api::prelude::*;

mdt_plugin_api::config! {
    /// The trainer `sft` has no keys of its own.
    pub struct Config {}
}

/// The trainer.
pub struct Sft {
    tokenizer: SharedTokenizer,
    services: Services,
    /// Whether the user was told that prompts and completions share tokens.
    warned: AtomicBool,
}

const JOINED: &str = "in some rows one token holds both the end of the prompt and the start of the completion; it is \
    trained, but a prompt that is given alone ends in another token: let completions begin with the space that prompts \
    end with";

impl Component for Sft {
    type Config = Config;

    fn create(_config: Config, setup: &Setup) -> Result<Self> {
        Ok(Self {
            tokenizer: setup.tokenizer()?.clone(),
            services: setup.services.clone(),
            warned: AtomicBool::new(false),
        })
    }
}

impl Sft {
    /// The tokens of a row and which of them are trained.
    fn masked(&self, content: &Content) -> Result<(Vec<u32>, Vec<bool>)> {
        match content {
            Content::Messages(messages) => {
                let rendered = self.tokenizer.render(messages)?;
                Ok((rendered.tokens.ids, rendered.assistant))
            }
            Content::PromptCompletion { prompt, completion } => {
                let completed = self.tokenizer.complete(prompt, completion)?;
                if completed.joined && !self.warned.swap(true, Ordering::Relaxed) {
                    self.services.log(LogLevel::Warn, JOINED);
                }
                Ok((completed.tokens, completed.completion))
            }
            Content::Text(text) => {
                let completed = self.tokenizer.complete("", text)?;
                Ok((completed.tokens, completed.completion))
            }
        }
    }
}

impl Trainer for Sft {
    fn encode(&self, example: &Example) -> Result<Vec<Item>> {
        let masked = Content::of(example).and_then(|content| self.masked(&content));
        let masked = masked.map_err(|error| error.with("row", example.row));
        masked.map(|(tokens, supervised)| vec![Item::of(tokens, supervised)])
    }

    fn collate(&self, rows: &BatchRows<'_>) -> Result<HostBatch> {
        let mut batch = HostBatch::default();
        batch.add_sequences(rows, Item::TOKENS)?;
        Ok(batch)
    }

    /// Sum of -log p(token | everything before it) over the trained tokens, in nats, and their number.
    fn loss(&self, ctx: &TrainerContext, batch: &Batch) -> Result<Loss> {
        let losses = ctx.trained_losses(batch, Item::TOKENS)?;
        let count: usize = losses.shape()?.iter().product();
        let weight = Tensor::full(ctx.compute(), &[], count as f64, Dtype::F32)?;
        Ok(Loss { sum: losses.sum()?, weight, metrics: Vec::new() })
    }
}

mdt_plugin_api::plugin! { trainer "sft" => Sft; }
