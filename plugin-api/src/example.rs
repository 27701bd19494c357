//! Examples: what a data source yields and a trainer turns into tokens.

use serde_json::{Map, Value};

/// One row of a data set.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// Which row of its source: the line number for line-based files, from 1.
    pub row: u64,
    /// What is in it.
    pub content: Content,
}

/// What a row holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A conversation; assistant turns are trained.
    Messages(Vec<Message>),
    /// A prompt and its answer; the answer is trained.
    PromptCompletion {
        /// What the model is given.
        prompt: String,
        /// What it learns to say.
        completion: String,
    },
    /// Plain text, all of which is trained.
    Text(String),
}

/// One turn of a conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`.
    pub role: String,
    /// The text; empty where a turn has tool calls only.
    pub content: String,
    /// Whatever else the chat template may want (`name`, `tool_calls`, …).
    pub extra: Map<String, Value>,
}
