//! Examples: the rows that a data source reads and a trainer turns into tokens.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One row of a data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// The number of the row in its source, from 1: the line number in files with a row per line.
    pub row: u64,
    /// Its content.
    pub content: Content,
}

/// The content of a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Content {
    /// A conversation; assistant turns are trained.
    Messages(Vec<Message>),
    /// A prompt and its answer; the answer is trained.
    PromptCompletion {
        /// The input of the model.
        prompt: String,
        /// The answer that it is trained to give.
        completion: String,
    },
    /// Plain text, all of which is trained.
    Text(String),
}

/// One turn of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`.
    pub role: String,
    /// The text; empty where a turn has tool calls only.
    pub content: String,
    /// Further fields for the chat template (`name`, `tool_calls`, …).
    pub extra: Map<String, Value>,
}
