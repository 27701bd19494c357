//! Supervised fine-tuning: the trainer `sft`.
//!
//! Rows are conversations, prompts with completions, or plain text. What is trained is what the assistant says, the
//! completion, or all of the text — each with the token that ends it. The loss is the cross-entropy of those tokens.

mod turns;

use std::sync::atomic::{AtomicBool, Ordering};

use mdt_plugin_api::prelude::*;

mdt_plugin_api::config! {
    /// Which tokens of a row are trained.
    pub enum TrainOn {
        /// What the assistant says in a conversation; completions; all of a plain text.
        Assistant = "assistant",
        /// The last answer of a conversation; completions; all of a plain text.
        Completion = "completion",
        /// Every token.
        All = "all",
    }
}

mdt_plugin_api::config! {
    /// Which answers of a conversation are trained.
    pub enum Turns {
        /// All of them.
        All = "all",
        /// The last one.
        Last = "last",
    }
}

mdt_plugin_api::config! {
    /// What a prompt with its completion is.
    pub enum PromptFormat {
        /// Plain text, as it stands in the row.
        Plain = "plain",
        /// A question and its answer, which the chat template renders.
        Template = "template",
    }
}

mdt_plugin_api::config! {
    /// Keys of the trainer `sft`.
    pub struct Config {
        /// The tokens that are trained: `assistant` (what the assistant says, or the completion), `completion` (of a
        /// conversation, the last answer only) or `all`.
        train_on: TrainOn = TrainOn::Assistant,
        /// The answers of a conversation that are trained: `all` or `last`. Where the chat template shows an answer
        /// otherwise once others follow (it may drop reasoning), each is a sequence of its own that ends with it, as
        /// generation sees it.
        turns: Turns = Turns::All,
        /// What `prompt` and `completion` of a row are: `plain` text, or a question and its answer for the chat `template`. They are plain
        /// text where it is not set.
        prompt_format: Option<PromptFormat> = None,
    }
}

/// The trainer.
pub struct Sft {
    config: Config,
    tokenizer: SharedTokenizer,
    services: Services,
    /// Whether the user was told that prompts and completions share tokens.
    warned: AtomicBool,
}

/// Tokens of a row, which of them are trained, and what the user should know of them.
type Masked = (Vec<u32>, Vec<bool>, Vec<String>);

const JOINED: &str = "in some rows one token holds both the end of the prompt and the start of the completion; it is \
    trained, but a prompt that is given alone ends in another token: let completions begin with the space that prompts \
    end with";

impl Component for Sft {
    type Config = Config;

    fn create(config: Config, setup: &Setup) -> Result<Self> {
        let tokenizer = setup.tokenizer()?.clone();
        if config.prompt_format == Some(PromptFormat::Template) && !tokenizer.vocabulary().renders_messages {
            return Err(Error::config("the model has no chat template to render prompts with")
                .with("key", "trainer.prompt_format")
                .help("name one with tokenizer.chat_template, or set trainer.prompt_format = \"plain\""));
        }
        Ok(Self { config, tokenizer, services: setup.services.clone(), warned: AtomicBool::new(false) })
    }
}

impl Sft {
    /// The sequences of a row: one, or one for each answer.
    fn sequences(&self, content: Content) -> Result<Vec<Masked>> {
        let (prompt, completion) = match content {
            Content::Messages(messages) => return self.conversation(&messages),
            Content::PromptCompletion { prompt, completion }
                if self.config.prompt_format == Some(PromptFormat::Template) =>
            {
                return self.conversation(&[Message::new("user", prompt), Message::new("assistant", completion)]);
            }
            Content::PromptCompletion { prompt, completion } => (prompt, completion),
            Content::Text(text) => (String::new(), text),
        };
        let Completed { tokens, completion, joined } = self.tokenizer.complete(&prompt, &completion)?;
        if joined && !self.warned.swap(true, Ordering::Relaxed) {
            self.services.log(LogLevel::Warn, JOINED);
        }
        let trained = match self.config.train_on {
            TrainOn::All => vec![true; tokens.len()],
            TrainOn::Assistant | TrainOn::Completion => completion,
        };
        Ok(vec![(tokens, trained, Vec::new())])
    }

    fn conversation(&self, messages: &[Message]) -> Result<Vec<Masked>> {
        let last_only = self.config.turns == Turns::Last || self.config.train_on == TrainOn::Completion;
        if self.config.train_on == TrainOn::All {
            let (rendered, notes) = self.tokenizer.render_noted(&turns::untrained(messages))?;
            let trained = vec![true; rendered.tokens.ids.len()];
            return Ok(vec![(rendered.tokens.ids, trained, notes)]);
        }
        let rendered = match last_only {
            true => vec![turns::last(&*self.tokenizer, messages)?],
            false => turns::all(&*self.tokenizer, messages)?,
        };
        Ok(rendered.into_iter().map(|(rendered, notes)| (rendered.tokens.ids, rendered.assistant, notes)).collect())
    }
}

impl Trainer for Sft {
    fn encode(&self, example: &Example) -> Result<Vec<Item>> {
        let sequences = Content::of(example).and_then(|content| self.sequences(content));
        let sequences = sequences.map_err(|error| error.with("row", example.row))?;
        let item = |(tokens, supervised, notes)| Item::of(tokens, supervised).with_notes(notes);
        Ok(sequences.into_iter().map(item).collect())
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
