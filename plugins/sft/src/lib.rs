//! Supervised fine-tuning: the trainer `sft`.
//!
//! Rows are conversations, prompts with completions, or plain text. What is trained is what the assistant says, the
//! completion, or all of the text — each with the token that ends it. The loss is the cross-entropy of those tokens.

mod chat;
mod collate;
mod content;
mod conversation;
mod directory;
mod end_of_turn;
mod generation_marks;
mod loss;
mod mask;
mod plain;
mod python_json;
mod regular_file;
mod render_limits;
mod template;
mod time_and_memory;
mod tokenizer;

use std::collections::BTreeMap;
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mdt_plugin_api::prelude::*;
use serde_json::Value;

pub use crate::content::Content;
use crate::conversation::RESERVED;
use crate::directory::ModelDirectory;
use crate::end_of_turn::stop_tokens;
use crate::template::ChatTemplate;
use crate::time_and_memory::{GivenUp, Part, limited};
use crate::tokenizer::Tokenizer;

mdt_plugin_api::config! {
    /// Keys of the trainer `sft`.
    pub struct Config {
        /// Maximum number of tokens in a row. Longer rows are cut at the right and counted. The host owns this key.
        max_seq_len: usize = 2048,
        /// A chat template to use instead of the model's: the path of a Jinja file, or the template itself.
        chat_template: Option<String> = None,
        /// Further variables for the chat template, such as `{ enable_thinking = false }`. The variables of a row (column
        /// `chat_template_kwargs`) take precedence.
        chat_template_kwargs: BTreeMap<String, Value> = BTreeMap::new(),
        /// The date (YYYY-MM-DD) that `strftime_now` gives chat templates. It is fixed, so that the tokens of a row do
        /// not depend on the day of the run. The default is the one that Llama's templates fall back to.
        template_date: String = "2024-07-26".into(),
    }
}

/// The trainer.
pub struct Sft(Arc<Shared>);

/// What the threads share that encode rows.
struct Shared {
    max_seq_len: usize,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    stop: Vec<u32>,
    services: Services,
    /// Whether the user was told that prompts and completions share tokens.
    warned: AtomicBool,
}

const JOINED: &str = "in some rows one token holds both the end of the prompt and the start of the completion; it is \
    trained, but a prompt that is given alone ends in another token: let completions begin with the space that prompts \
    end with";

impl Component for Sft {
    type Config = Config;

    fn create(config: Config, setup: &Setup) -> Result<Self> {
        if config.max_seq_len < 2 {
            return Err(Error::config("a row needs at least two tokens: one as input and one to predict")
                .with("key", "trainer.max_seq_len")
                .with("value", config.max_seq_len));
        }
        let date = config.template_date.parse().map_err(|error| {
            Error::config("not a date")
                .with("key", "trainer.template_date")
                .with("value", &config.template_date)
                .help("write it as YYYY-MM-DD")
                .caused_by(error as jiff::Error)
        })?;
        let path = setup.model_path.as_deref().ok_or_else(|| {
            Error::config("the trainer sft needs a model directory, for the tokenizer in it").with("key", "model.path")
        })?;

        let directory = ModelDirectory::open(path, &setup.model_config)?;
        let tokenizer = Tokenizer::load(&directory)?;
        let source = match &config.chat_template {
            Some(value) => Some(directory::configured_template(value)?),
            None => directory.chat_template()?,
        };
        if let Some(name) = RESERVED.iter().find(|name| config.chat_template_kwargs.contains_key(**name)) {
            return Err(Error::config(
                "this variable of the chat template is the conversation itself and cannot be set",
            )
            .with("key", format!("trainer.chat_template_kwargs.{name}")));
        }
        let compile =
            |source| ChatTemplate::compile(&source, &directory.special_tokens(), config.chat_template_kwargs, date);
        let template = source.map(compile).transpose()?;
        let stop = stop_tokens(&directory, &tokenizer, template.as_ref());
        if let Some(error) = template.as_ref().and_then(ChatTemplate::exceeded) {
            return Err(error.clone());
        }
        Ok(Self(Arc::new(Shared {
            max_seq_len: config.max_seq_len,
            tokenizer,
            template,
            stop,
            services: setup.services.clone(),
            warned: AtomicBool::new(false),
        })))
    }
}

impl Shared {
    fn template(&self) -> Result<&ChatTemplate> {
        self.template.as_ref().ok_or_else(|| {
            Error::input("the row is a conversation, and the model has no chat template")
                .help("name one with trainer.chat_template, or give rows with prompt and completion, or text")
        })
    }

    fn masked(&self, content: &Content) -> Result<plain::Masked> {
        match content {
            Content::Messages(messages) => chat::encode(&self.tokenizer, self.template()?, messages),
            Content::PromptCompletion { prompt, completion } => {
                let (masked, joined) = plain::prompt_completion(&self.tokenizer, prompt, completion)?;
                if joined && !self.warned.swap(true, Ordering::Relaxed) {
                    self.services.log(LogLevel::Warn, JOINED);
                }
                Ok(masked)
            }
            Content::Text(text) => Ok(plain::prompt_completion(&self.tokenizer, "", text)?.0),
        }
    }

    fn encode(&self, example: &Example) -> Result<Encoded> {
        let (mut tokens, mut supervised) = self.masked(&Content::of(example)?)?;
        let truncated = tokens.len().saturating_sub(self.max_seq_len) as u64;
        tokens.truncate(self.max_seq_len);
        supervised.truncate(self.max_seq_len);
        Ok(Encoded { tokens, supervised, truncated })
    }

    fn encode_prompt(&self, example: &Example) -> Result<Vec<u32>> {
        match &Content::of(example)? {
            Content::Messages(messages) => {
                self.template().and_then(|template| chat::encode_prompt(&self.tokenizer, template, messages))
            }
            Content::PromptCompletion { prompt: text, .. } | Content::Text(text) => {
                self.tokenizer.tokens_from_start(text)
            }
        }
    }
}

impl Sft {
    /// Works on a row within limits of time and memory, on one other thread for the whole row.
    fn on_row<T: Send + 'static>(
        &self,
        example: &Example,
        work: impl FnOnce(&Shared, &Example) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let size = match Content::of(example) {
            Ok(Content::Messages(messages)) => messages.iter().map(|message| message.content.len()).sum(),
            Ok(Content::PromptCompletion { prompt, completion }) => prompt.len() + completion.len(),
            Ok(Content::Text(text)) => text.len(),
            Err(_) => 0,
        };
        let (shared, row) = (Arc::clone(&self.0), example.clone());
        let result = match limited(Part::Tokenizer, size, move || work(&shared, &row)) {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => panic::resume_unwind(panic),
            Err(GivenUp { part, reason }) => Err(match (part, &self.0.template) {
                (Part::Template, Some(template)) => template.exceed(reason),
                _ => self.0.tokenizer.exceed(&reason),
            }),
        };
        result.map_err(|error| error.with("row", example.row))
    }
}

impl Trainer for Sft {
    fn vocabulary(&self) -> Result<Vocabulary> {
        Ok(Vocabulary { size: self.0.tokenizer.size(), stop: self.0.stop.clone() })
    }

    fn encode(&self, example: &Example) -> Result<Encoded> {
        self.on_row(example, Shared::encode)
    }

    fn encode_prompt(&self, example: &Example) -> Result<Vec<u32>> {
        self.on_row(example, Shared::encode_prompt)
    }

    fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.0.tokenizer.decode(tokens)
    }

    fn collate(&self, rows: &[&Encoded]) -> Result<HostBatch> {
        collate::collate(rows)
    }

    fn loss(&self, ctx: &TrainerContext, batch: &Batch) -> Result<Loss> {
        loss::loss(ctx, batch)
    }
}

mdt_plugin_api::plugin! { trainer "sft" => Sft; }
