//! What a prompt is: plain text, or a question that the chat template renders. Generation does as training did: a model that
//! was trained on prompts has a record of it beside its tokenizer.

use std::fs;

use clap::ValueEnum;
use mdt_plugin_api::{Example, Kind, Message, SharedTokenizer};
use serde_json::{Map, Value};

use crate::job::{Job, OpenedModel};

/// The file with the record.
pub const FILE: &str = "tokenizer_config.json";

/// Its key there, and the trainer's.
const KEY: &str = "prompt_format";

/// What a prompt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PromptFormat {
    /// Text, as it stands.
    Plain,
    /// What a user says, which the chat template renders.
    Template,
}

impl PromptFormat {
    fn of(value: &Value) -> Option<Self> {
        Self::from_str(value.get(KEY)?.as_str()?, false).ok()
    }

    /// What the prompts of a job's rows are, and the line that says it; `None` where its rows are others, or the model has no
    /// chat template, or the trainer does not choose. Where the user does not choose either, they are plain text.
    pub fn trained(job: &Job, tokenizer: &SharedTokenizer) -> Option<(Option<Self>, &'static str)> {
        let config = &job.resolved.component(Kind::Trainer)?.config;
        config.get(KEY)?;
        if !tokenizer.vocabulary().renders_messages {
            return None;
        }
        // An error of the source is told where all rows are read.
        let first = job.data(job.resolved.settings.data.train_names().first()?).ok()?.next().ok()??;
        let chosen = Self::of(config);
        is_prompt(&first).then_some((chosen, match chosen {
            None => {
                "plain text, without the chat template: set trainer.prompt_format to \"plain\" or \"template\", and generate \
                 will do the same by itself"
            }
            Some(Self::Plain) => "plain text, without the chat template (trainer.prompt_format)",
            Some(Self::Template) => "the chat template renders prompt and completion (trainer.prompt_format)",
        }))
    }

    /// What the prompts were that a model or its adapter was trained on.
    pub fn recorded(job: &Job, opened: &OpenedModel) -> Option<Self> {
        let adapter = job.resolved.settings.model.adapter.as_ref().and_then(|adapter| adapter.path.as_deref());
        [adapter, Some(opened.directory.path())].into_iter().flatten().find_map(|directory| {
            let text = fs::read_to_string(directory.join(FILE)).ok()?;
            Self::of(&serde_json::from_str(&text).ok()?)
        })
    }

    /// The text of the file with this record, or without one; `None` where that is what it says.
    pub fn record(format: Option<Self>, text: &str) -> Option<String> {
        let mut config: Map<String, Value> = serde_json::from_str(text).ok()?;
        match format.and_then(|format| format.to_possible_value()) {
            Some(format) => drop(config.insert(KEY.to_owned(), format.get_name().into())),
            None => drop(config.shift_remove(KEY)?),
        }
        Some(format!("{:#}\n", Value::Object(config)))
    }

    /// A row with a prompt, in this format.
    pub fn applied(self, example: &Example) -> Example {
        match example.text("prompt") {
            Ok(prompt) if self == Self::Template && is_prompt(example) => {
                Example::new(example.row).with("messages", vec![Message::new("user", prompt)])
            }
            _ => example.clone(),
        }
    }

    /// A prompt of the user's as a row.
    pub fn example(self, prompt: &str) -> Example {
        match self {
            Self::Template => Example::new(1).with("messages", vec![Message::new("user", prompt)]),
            Self::Plain => Example::new(1).with("text", prompt),
        }
    }
}

fn is_prompt(row: &Example) -> bool {
    row.has("prompt") && row.has("completion") && !row.has("messages")
}
