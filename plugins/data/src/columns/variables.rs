//! The variables that a row gives the chat template besides its conversation: the columns `tools` and `chat_template_kwargs`.
//!
//! They are stored as an object under `chat_template_kwargs` in the first message, where the trainer reads them.

use mdt_plugin_api::serde_json::{Map, Value, from_str};
use mdt_plugin_api::{Error, Message, Result};

use super::Column;
use super::advice::wrong_type;

/// Gives a conversation its variables, from the two columns; null where the row lacks them.
pub(super) fn attach(
    mut messages: Vec<Message>,
    tools: (Column<'_>, Value),
    variables: (Column<'_>, Value),
) -> Result<Vec<Message>> {
    let name = variables.0.ours;
    let mut variables = match parsed(&variables)? {
        Value::Object(variables) => variables,
        Value::Null => Map::new(),
        other => return Err(wrong_type(variables.0.theirs, "an object", &other)),
    };
    match parsed(&tools)? {
        // Templates get None where there are no tools.
        Value::Null => {}
        Value::Array(list) if list.is_empty() => {}
        Value::Array(list) => {
            if let Some((index, other)) = list.iter().enumerate().find(|(_, tool)| !tool.is_object()) {
                return Err(wrong_type(&format!("{}[{index}]", tools.0.theirs), "an object", other));
            }
            variables.insert(tools.0.ours.to_owned(), Value::Array(list));
        }
        other => return Err(wrong_type(tools.0.theirs, "an array of tools", &other)),
    }
    if let (Some(first), false) = (messages.first_mut(), variables.is_empty()) {
        first.extra.insert(name.to_owned(), Value::Object(variables));
    }
    Ok(messages)
}

/// The value, or the one whose JSON it is: a table has one type for all its rows, so tools are text there.
fn parsed((column, value): &(Column<'_>, Value)) -> Result<Value> {
    match value {
        Value::String(text) if text.trim().is_empty() => Ok(Value::Null),
        Value::String(text) => from_str(text).map_err(|error| {
            Error::input(format!("`{}` is text that is no JSON", column.theirs))
                .caused_by(error)
                .help("give it as JSON, or as the text of that")
        }),
        other => Ok(other.clone()),
    }
}
