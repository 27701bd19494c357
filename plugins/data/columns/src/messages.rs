//! Conversations: arrays of messages in the form that chat templates take.

use mdt_plugin_api::serde_json::{Map, Value};
use mdt_plugin_api::{Error, Message, Result};

use super::advice::{keys, nearest, wrong_type};
use super::calls;

/// The roles that chat templates know; some know others.
const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// Where a message has the parts of its content, which is their text: some templates show parts otherwise.
const PARTS: &str = "content_parts";

/// Names of these roles in other formats.
const OTHER_ROLES: [(&str, &str); 5] =
    [("human", "user"), ("gpt", "assistant"), ("bot", "assistant"), ("model", "assistant"), ("function", "tool")];

/// Reads the column `column` as messages.
pub(super) fn read(column: &str, value: Value) -> Result<Vec<Message>> {
    read_turns(column, value, ["role", "content"], message)
}

/// Reads the column `column` as turns with these keys, each by `turn`, which is given where it is, such as `messages[3]`.
pub(super) fn read_turns(
    column: &str,
    value: Value,
    [by, content]: [&str; 2],
    turn: impl Fn(&str, Map<String, Value>) -> Result<Message>,
) -> Result<Vec<Message>> {
    let Value::Array(turns) = value else {
        return Err(wrong_type(column, &format!("an array of {{ {by}, {content} }}"), &value));
    };
    if turns.is_empty() {
        return Err(Error::input(format!("`{column}` is empty")));
    }
    let message = |(index, value)| {
        let place = format!("{column}[{index}]");
        match value {
            Value::Object(keys) => turn(&place, keys),
            other => Err(wrong_type(&place, &format!("an object with {by} and {content}"), &other)),
        }
    };
    turns.into_iter().enumerate().map(message).collect()
}

/// Reads one message; `place` is where it is, such as `messages[3]`.
fn message(place: &str, mut turn: Map<String, Value>) -> Result<Message> {
    let found = keys(&turn);
    let role = match turn.shift_remove("role") {
        Some(Value::String(role)) => role,
        Some(other) => return Err(wrong_type(&format!("{place}.role"), "a string", &other)),
        None => {
            let error = Error::input(format!("`{place}` has no `role`")).with("keys found", found);
            return Err(match (turn.contains_key("from"), place.split_once('[')) {
                (true, Some((column, _))) => error.help(format!(
                    "turns with `from` are those of the format `sharegpt`: data.fields = {{ conversations = {column:?} }}"
                )),
                _ => error,
            });
        }
    };
    let content = turn.shift_remove("content");
    complete(place, role, ("content", content), turn, found)
}

/// Makes a message of its parts: `found` are the keys that it had, and the content is named as it was there.
///
/// A turn may only call tools; its content is then null in OpenAI's form, or missing. A `content` of null among the
/// other keys says so, for templates that tell this from an empty one.
pub(super) fn complete(
    place: &str,
    role: String,
    (key, content): (&str, Option<Value>),
    mut extra: Map<String, Value>,
    found: String,
) -> Result<Message> {
    if let Some(ours) = misnamed(&role) {
        let help = format!("the roles are {}; {role:?} looks like {ours:?}", ROLES.join(", "));
        return Err(Error::input(format!("`{place}` has the unknown role {role:?}")).help(help));
    }
    let calls = calls::check(&format!("{place}.tool_calls"), extra.get("tool_calls"))?;
    let content = match content {
        Some(Value::String(content)) => content,
        None | Some(Value::Null) if calls => {
            extra.insert("content".to_owned(), Value::Null);
            String::new()
        }
        None => return Err(Error::input(format!("`{place}` has no `{key}`")).with("keys found", found)),
        Some(Value::Array(parts)) => {
            let text = |part: &Value| Some(part["text"].as_str().filter(|_| part["type"] == "text")?.to_owned());
            let Some(content) = parts.iter().map(text).collect() else {
                return Err(Error::input(format!("`{place}.{key}` has parts that are not text"))
                    .help("images and audio are not supported: a part is { \"type\": \"text\", \"text\": \"…\" }"));
            };
            extra.insert(PARTS.to_owned(), parts.into());
            content
        }
        Some(other) => return Err(wrong_type(&format!("{place}.{key}"), "a string", &other)),
    };
    Ok(Message { role, content, extra })
}

/// The role that is meant by one of another format or a misspelt one. Templates may know further roles.
fn misnamed(role: &str) -> Option<&'static str> {
    if ROLES.contains(&role) {
        return None;
    }
    let other = OTHER_ROLES.iter().find(|(other, _)| other.eq_ignore_ascii_case(role)).map(|&(_, ours)| ours);
    let ours =
        |meant: &'static str| OTHER_ROLES.iter().find(|(other, _)| *other == meant).map_or(meant, |&(_, ours)| ours);
    let names = ROLES.into_iter().chain(OTHER_ROLES.map(|(other, _)| other));
    other.or_else(|| nearest(role, names).map(ours))
}
