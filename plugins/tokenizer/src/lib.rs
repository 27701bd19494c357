//! Tokenizers in the form of the Hugging Face library: the tokenizer `huggingface`.
//!
//! It reads `tokenizer.json` and the files beside it. Conversations are rendered by the model's chat template, and what
//! the assistant says in them is found in the template's marks or, where it has none, by rendering parts.

mod chat;
mod conversation;
mod directory;
mod end_of_turn;
mod generation_marks;
mod python_json;
mod regular_file;
mod render_limits;
mod template;
mod time_and_memory;
mod tokenizer_file;
mod twin;

use std::collections::BTreeMap;
use std::panic;
use std::sync::Arc;

use mdt_plugin_api::prelude::*;
use serde_json::Value;

use crate::chat::Noted;
use crate::conversation::RESERVED;
use crate::directory::ModelDirectory;
use crate::end_of_turn::stop_tokens;
use crate::template::{ChatTemplate, TemplateSource};
use crate::time_and_memory::{GivenUp, Part, limited};
use crate::tokenizer_file::TokenizerFile;

mdt_plugin_api::config! {
    /// Keys of the tokenizer `huggingface`.
    pub struct Config {
        /// A chat template to use instead of the model's: the path of a Jinja file, the name of one of the model's templates,
        /// or the template itself.
        chat_template: Option<String> = None,
        /// A chat template that training renders conversations with, in the place of the one of generation: one that marks answers
        /// with `{% generation %}`, or keeps the reasoning of earlier ones. It is compared with that on every row. As `chat_template`
        /// gives it.
        training_template: Option<String> = None,
        /// Further variables for the chat template, such as `{ enable_thinking = false }`. The variables of a row (column
        /// `chat_template_kwargs`) take precedence.
        chat_template_kwargs: BTreeMap<String, Value> = BTreeMap::new(),
        /// The date (YYYY-MM-DD) that `strftime_now` gives chat templates. It is fixed, so that the tokens of a row do
        /// not depend on the day of the run. The default is the one that Llama's templates fall back to.
        template_date: String = "2024-07-26".into(),
    }
}

/// The file that the training template is written to, beside the one of generation.
const TRAINING: &str = "training_template.jinja";

/// The tokenizer.
pub struct HuggingFace(Arc<Shared>);

/// What the threads share that encode texts.
struct Shared {
    file: TokenizerFile,
    template: Option<ChatTemplate>,
    /// The template of rows with tools, where the model has one of its own.
    tool_use: Option<ChatTemplate>,
    /// The template of training, where it is another one.
    training: Option<ChatTemplate>,
    stop: Vec<u32>,
    /// The files that it was made of.
    files: Vec<NamedFile>,
}

impl Component for HuggingFace {
    type Config = Config;

    fn create(config: Config, setup: &Setup) -> Result<Self> {
        let date = config.template_date.parse().map_err(|error| {
            Error::config("not a date")
                .with("key", "tokenizer.template_date")
                .with("value", &config.template_date)
                .help("write it as YYYY-MM-DD")
                .caused_by(error as jiff::Error)
        })?;
        let path = setup.model_path.as_deref().ok_or_else(|| {
            Error::config("the tokenizer huggingface needs a model directory, for the files in it")
                .with("key", "model.path")
        })?;

        let directory = ModelDirectory::open(path, &setup.model_config)?;
        let file = TokenizerFile::load(&directory)?;
        let configured = |key, value: &Option<String>| {
            value.as_deref().map(|value| directory.configured_template(key, value)).transpose()
        };
        let training = configured("tokenizer.training_template", &config.training_template)?;
        let configured = configured("tokenizer.chat_template", &config.chat_template)?;
        let mut files = directory.files(configured.as_ref().map(|source| source.text.as_str()))?;
        files.extend(
            training.as_ref().map(|source| NamedFile { name: TRAINING.to_owned(), text: Some(source.text.clone()) }),
        );
        let sources = match configured {
            Some(source) => Some((source, None)),
            None => directory.chat_templates()?,
        };
        if let Some(name) = RESERVED.iter().find(|name| config.chat_template_kwargs.contains_key(**name)) {
            return Err(Error::config(
                "this variable of the chat template is the conversation itself and cannot be set",
            )
            .with("key", format!("tokenizer.chat_template_kwargs.{name}")));
        }
        let special = directory.special_tokens();
        let compile = |source: TemplateSource| {
            ChatTemplate::compile(&source, &special, config.chat_template_kwargs.clone(), date)
        };
        let (source, tool_use) = sources.unzip();
        let (template, tool_use) = (source.map(compile).transpose()?, tool_use.flatten().map(compile).transpose()?);
        let training = training.map(compile).transpose()?;
        if training.is_some() && template.is_none() {
            return Err(Error::config("the model has no chat template that generation would use")
                .with("key", "tokenizer.training_template")
                .help("name it with tokenizer.chat_template; or use this template for both, as tokenizer.chat_template alone"));
        }
        let stop = stop_tokens(&directory, &file, [&template, &tool_use].into_iter().flatten());
        if let Some(error) = [&template, &tool_use, &training].into_iter().flatten().find_map(ChatTemplate::exceeded) {
            return Err(error.clone());
        }
        Ok(Self(Arc::new(Shared { file, template, tool_use, training, stop, files })))
    }
}

impl Shared {
    /// The template of these messages.
    fn template(&self, messages: &[Message]) -> Result<&ChatTemplate> {
        let has_tools = |first: &Message| {
            let tools = first.extra.get(Content::VARIABLES).and_then(|variables| variables.get("tools"));
            tools.is_some_and(|tools| !tools.is_null())
        };
        let for_tools = self.tool_use.as_ref().filter(|_| messages.first().is_some_and(has_tools));
        for_tools.or(self.template.as_ref()).ok_or_else(|| {
            Error::input("the row is a conversation, and the model has no chat template")
                .help("name one with tokenizer.chat_template, or give rows with prompt and completion, or text")
        })
    }
}

impl Shared {
    /// A conversation of training.
    fn render(&self, messages: &[Message]) -> Result<Noted> {
        let generation = self.template(messages)?;
        let Some(training) = &self.training else { return chat::render(&self.file, generation, messages) };
        let (rendered, mut notes) = chat::render(&self.file, training, messages)?;
        for note in twin::differences(training, generation, messages)? {
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
        Ok((rendered, notes))
    }

    /// A prompt of generation.
    fn render_prompt(&self, messages: &[Message]) -> Result<Rendered> {
        chat::render_prompt(&self.file, self.template(messages)?, messages)
    }
}

impl HuggingFace {
    /// Renders messages within limits of time and memory, on one other thread for all that this takes.
    fn limited<T: Send + 'static>(
        &self,
        messages: &[Message],
        render: fn(&Shared, &[Message]) -> Result<T>,
    ) -> Result<T> {
        let size = messages.iter().map(|message| message.content.len()).sum();
        let (shared, owned) = (Arc::clone(&self.0), messages.to_vec());
        let work = move || render(&shared, &owned);
        match limited(Part::Tokenizer, size, work) {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => panic::resume_unwind(panic),
            Err(GivenUp { part, reason }) => Err(match (part, self.0.template(messages)) {
                (Part::Template, Ok(template)) => self.0.training.as_ref().unwrap_or(template).exceed(reason),
                _ => self.0.file.exceed(&reason),
            }),
        }
    }
}

impl Tokenizer for HuggingFace {
    fn vocabulary(&self) -> Result<Vocabulary> {
        let Shared { file, template, stop, .. } = &*self.0;
        Ok(Vocabulary { stop: stop.clone(), renders_messages: template.is_some(), ..file.vocabulary() })
    }

    fn encode(&self, text: &str) -> Result<Tokens> {
        self.0.file.tokens(text)
    }

    fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.0.file.decode(tokens)
    }

    fn render(&self, messages: &[Message]) -> Result<Rendered> {
        Ok(self.render_noted(messages)?.0)
    }

    fn render_noted(&self, messages: &[Message]) -> Result<Noted> {
        self.limited(messages, Shared::render)
    }

    fn render_prompt(&self, messages: &[Message]) -> Result<Rendered> {
        self.limited(messages, Shared::render_prompt)
    }

    fn files(&self) -> Result<Vec<NamedFile>> {
        Ok(self.0.files.clone())
    }
}

mdt_plugin_api::plugin! { tokenizer "huggingface" => HuggingFace; }
