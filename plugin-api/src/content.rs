//! What a row that a language model is trained on usually is: a conversation, a completion, or text.

use serde_json::{Map, Value};

use crate::{Error, Example, Message, Result};

/// The columns of a row with text, by which of them it has.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// `messages`, with `tools` and `chat_template_kwargs` under [`Content::VARIABLES`] in the first message.
    Messages(Vec<Message>),
    /// `prompt` and `completion`.
    PromptCompletion {
        /// The input of the model.
        prompt: String,
        /// The answer that it is to give.
        completion: String,
    },
    /// `text`.
    Text(String),
}

impl Content {
    /// The key of the first message under which a conversation has variables of its own for the chat template, an object.
    pub const VARIABLES: &'static str = "chat_template_kwargs";

    /// Reads a row.
    ///
    /// # Errors
    /// It has none of these columns, or one of another type.
    pub fn of(example: &Example) -> Result<Self> {
        if example.has("messages") {
            return Ok(Self::Messages(conversation(example)?));
        }
        if example.has("prompt") && example.has("completion") {
            let [prompt, completion] = ["prompt", "completion"].map(|name| example.text(name).map(str::to_owned));
            return Ok(Self::PromptCompletion { prompt: prompt?, completion: completion? });
        }
        if example.has("text") {
            return Ok(Self::Text(example.text("text")?.to_owned()));
        }
        let names: Vec<&str> = example.values.iter().map(|(name, _)| name.as_str()).collect();
        Err(Error::input("the row has none of `messages`, `prompt` + `completion`, `text`")
            .with("columns found", names.join(", "))
            .help("let the data source name them: data.fields = { prompt = \"question\", completion = \"answer\" }"))
    }
}

fn conversation(example: &Example) -> Result<Vec<Message>> {
    let mut messages = example.messages("messages")?;
    let mut variables = match example.get(Content::VARIABLES).map(|value| value.to_json()) {
        None => Map::new(),
        Some(Value::Object(variables)) => variables,
        Some(_) => return Err(Error::input(format!("`{}` is no object", Content::VARIABLES))),
    };
    if let Some(tools) = example.get("tools") {
        variables.insert("tools".to_owned(), tools.to_json());
    }
    if let (Some(first), false) = (messages.first_mut(), variables.is_empty()) {
        first.extra.insert(Content::VARIABLES.to_owned(), Value::Object(variables));
    }
    Ok(messages)
}

/// For tests: the row with this content.
impl From<Content> for Example {
    fn from(content: Content) -> Self {
        let example = Self::new(812);
        match content {
            Content::Messages(mut messages) => {
                let variables = messages.first_mut().and_then(|first| first.extra.shift_remove(Content::VARIABLES));
                example.with("messages", messages).with(Content::VARIABLES, variables.unwrap_or_default())
            }
            Content::PromptCompletion { prompt, completion } => {
                example.with("prompt", prompt).with("completion", completion)
            }
            Content::Text(text) => example.with("text", text),
        }
    }
}
