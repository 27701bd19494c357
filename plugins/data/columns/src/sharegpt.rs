//! ShareGPT's conversations: turns of `from` and `value`, which some data sets mix with `role` and `content`.

use mdt_plugin_api::serde_json::{Map, Value};
use mdt_plugin_api::{Error, Message, Result};

use super::advice::{keys, wrong_type};
use super::{calls, messages};

/// Names of speakers, and the role of each.
const SPEAKERS: [(&str, &str); 7] = [
    ("human", "user"),
    ("gpt", "assistant"),
    ("chatgpt", "assistant"),
    ("bot", "assistant"),
    ("model", "assistant"),
    (CALLS, "assistant"),
    ("observation", "tool"),
];

/// The speaker whose value holds the assistant's tool calls.
const CALLS: &str = "function_call";

/// Reads the column `column` as messages.
pub(super) fn read(column: &str, value: Value) -> Result<Vec<Message>> {
    messages::read_turns(column, value, ["from", "value"], message)
}

/// Reads one turn; `place` is where it is, such as `conversations[3]`.
fn message(place: &str, mut turn: Map<String, Value>) -> Result<Message> {
    let found = keys(&turn);
    // A table has all columns of all its rows, null where a turn has none.
    turn.retain(|_, value| !value.is_null());
    let speaker = match either(place, &mut turn, "from", "role")? {
        Some((_, Value::String(speaker))) => speaker,
        Some((key, other)) => return Err(wrong_type(&format!("{place}.{key}"), "a string", &other)),
        None => return Err(Error::input(format!("`{place}` has no `from` and no `role`")).with("keys found", found)),
    };
    let mut content = match either(place, &mut turn, "value", "content")? {
        Some((key, content)) => (key, Some(content)),
        None => ("value", None),
    };
    if speaker == CALLS
        && let (key, Some(value)) = &mut content
    {
        turn.insert("tool_calls".to_owned(), calls::read(&format!("{place}.{key}"), value.take())?);
    }
    let ours = SPEAKERS.iter().find(|(other, _)| *other == speaker).map(|(_, ours)| (*ours).to_owned());
    messages::complete(place, ours.unwrap_or(speaker), content, turn, found)
}

/// What a turn has under one of two names.
fn either(
    place: &str,
    turn: &mut Map<String, Value>,
    first: &'static str,
    second: &'static str,
) -> Result<Option<(&'static str, Value)>> {
    match (turn.shift_remove(first), turn.shift_remove(second)) {
        (Some(one), Some(other)) if one != other => {
            Err(Error::input(format!("`{place}` has both `{first}` and `{second}`, which differ"))
                .help("leave one of them"))
        }
        (Some(value), _) => Ok(Some((first, value))),
        (None, Some(value)) => Ok(Some((second, value))),
        (None, None) => Ok(None),
    }
}
