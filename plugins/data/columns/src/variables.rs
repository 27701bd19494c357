//! The variables that a row gives the chat template besides its conversation: the columns `tools` and `chat_template_kwargs`.

use mdt_plugin_api::serde_json::{Value, from_str};
use mdt_plugin_api::{Error, Example, Result};

use super::Column;
use super::advice::wrong_type;

/// Gives a conversation its variables, from the two columns; null where the row lacks them.
pub(super) fn attach(
    example: Example,
    tools: &(Column<'_>, Value),
    variables: &(Column<'_>, Value),
) -> Result<Example> {
    let example = match parsed(tools)? {
        // Templates get None where there are no tools.
        Value::Null => example,
        Value::Array(list) if list.is_empty() => example,
        Value::Array(list) => {
            if let Some((index, other)) = list.iter().enumerate().find(|(_, tool)| !tool.is_object()) {
                return Err(wrong_type(&format!("{}[{index}]", tools.0.theirs), "an object", other));
            }
            example.with(tools.0.ours, Value::Array(list))
        }
        other => return Err(wrong_type(tools.0.theirs, "an array of tools", &other)),
    };
    match parsed(variables)? {
        Value::Null => Ok(example),
        Value::Object(entries) if entries.is_empty() => Ok(example),
        entries @ Value::Object(_) => Ok(example.with(variables.0.ours, entries)),
        other => Err(wrong_type(variables.0.theirs, "an object", &other)),
    }
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
