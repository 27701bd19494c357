//! What a prompt is: plain text, or a question that the chat template renders.

use clap::ValueEnum;
use mdt_plugin_api::{Example, Message};
use serde_json::Value;

/// What a prompt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PromptFormat {
    /// Text, as it stands.
    Plain,
    /// What a user says, which the chat template renders.
    Template,
}

impl PromptFormat {
    /// The trainer's key that chooses it.
    pub const KEY: &str = "prompt_format";

    /// What the keys of a trainer say; `None` where they say nothing.
    pub fn of(keys: &Value) -> Option<Self> {
        Self::from_str(keys.get(Self::KEY)?.as_str()?, false).ok()
    }

    /// Its name as a value of that key.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Template => "template",
        }
    }

    /// It in words.
    pub fn description(self) -> &'static str {
        match self {
            Self::Plain => "plain text",
            Self::Template => "rendered by the chat template",
        }
    }

    /// Whether a row is a prompt with its completion.
    pub fn applies_to(row: &Example) -> bool {
        row.has("prompt") && row.has("completion") && !row.has("messages")
    }

    /// A row with a prompt, in this format.
    pub fn applied(self, example: &Example) -> Example {
        match example.text("prompt") {
            Ok(prompt) if self == Self::Template && Self::applies_to(example) => {
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
