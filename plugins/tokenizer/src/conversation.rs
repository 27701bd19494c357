//! A conversation in the form that chat templates take: messages as values, and the row's further variables.

use mdt_plugin_api::{Content, Error, Message, Result};
use minijinja::Value;
use minijinja::value::Serde;
use serde_json::{Map, Value as Json};

/// Where a row's own variables for the template are (`tools`, `documents`, `enable_thinking`): an object under this key of
/// the first message, which transformers' trainers have as a column of the same name.
const VARIABLES: &str = Content::VARIABLES;

/// Variables that are the conversation itself.
pub const RESERVED: [&str; 2] = ["messages", "add_generation_prompt"];

/// The key of a message that says whether it is trained, 0 or 1, as in OpenAI's format. Templates do not get it.
const WEIGHT: &str = "weight";

/// Names for the reasoning of a message. Templates read the first; some read the second.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// The messages and variables of a row. All messages can be rendered, or the first ones only.
#[derive(Debug)]
pub struct Conversation {
    /// One value for each message.
    pub turns: Vec<Value>,
    /// The row's further variables: a map by name.
    pub variables: Value,
    /// For each message, whether it may be trained: whether its weight is not 0.
    pub weighted: Vec<bool>,
}

impl Conversation {
    /// Makes one from the messages of a row. With `objects`, arguments of calls that are the JSON text of an object are
    /// parsed. `forbidden` says which text must not occur.
    ///
    /// OpenAI's interface writes them as text, and most templates are written for objects: `arguments | tojson` of text
    /// would teach the model to quote its arguments twice.
    ///
    /// # Errors
    /// Such text; variables that are no object, or that would replace the conversation; weights other than 0 and 1.
    pub fn new(messages: &[Message], objects: bool, forbidden: impl Fn(&str) -> bool) -> Result<Self> {
        let mut messages = messages.to_vec();
        let variables = match messages.first_mut().and_then(|first| first.extra.shift_remove(VARIABLES)) {
            None | Some(Json::Null) => Map::new(),
            Some(Json::Object(variables)) => variables,
            Some(_) => return Err(Error::input(format!("`{VARIABLES}` is no object"))),
        };
        if let Some(name) = RESERVED.iter().find(|name| variables.contains_key(**name)) {
            return Err(Error::input(format!("`{VARIABLES}` sets `{name}`, which is the conversation itself")));
        }
        let weighted = messages.iter_mut().enumerate().map(|(turn, message)| weight(turn, message));
        let weighted = weighted.collect::<Result<Vec<_>>>()?;
        let turns = messages.into_iter().map(|message| turn(message, objects)).collect::<Vec<_>>();
        if variables.values().chain(&turns).any(|value| any_text(value, &forbidden)) {
            return Err(Error::input("the row contains U+FDD0 or U+FDD1, which Unicode reserves for internal use")
                .help("remove these noncharacters from the row"));
        }
        Ok(Self {
            turns: turns.into_iter().map(|turn| Value::from(Serde(turn))).collect(),
            variables: Value::from(Serde(Json::Object(variables))),
            weighted,
        })
    }
}

/// Removes the weight of a message and returns whether it is not 0.
fn weight(turn: usize, message: &mut Message) -> Result<bool> {
    match message.extra.shift_remove(WEIGHT) {
        None | Some(Json::Null) => Ok(true),
        Some(weight) if weight.as_f64() == Some(0.0) => Ok(false),
        Some(weight) if weight.as_f64() == Some(1.0) => Ok(true),
        Some(other) => Err(Error::input(format!("the `weight` of a message is {other}"))
            .with("message", turn + 1)
            .help("a weight is 0 (this answer is not trained) or 1 (it is)")),
    }
}

/// A message with all its keys but those that are null, as transformers gives them to templates: these take a missing
/// key better than a null. A `content` of null in `extra` therefore says that the message has none.
fn turn(message: Message, objects: bool) -> Json {
    let mut turn = Map::new();
    turn.insert("role".into(), message.role.into());
    turn.insert("content".into(), message.content.into());
    turn.extend(message.extra);
    turn.retain(|_, value| !value.is_null());
    if let Some(reasoning) = REASONING.iter().find_map(|name| turn.get(*name).cloned()) {
        turn.insert(REASONING[0].into(), reasoning.clone());
        turn.entry(REASONING[1]).or_insert(reasoning);
    }
    if objects && let Some(Json::Array(calls)) = turn.get_mut("tool_calls") {
        calls.iter_mut().for_each(parse_arguments);
    }
    Json::Object(turn)
}

/// Arguments of a call as an object, where they are the text of one.
fn parse_arguments(call: &mut Json) {
    let has_function = call.get("function").is_some_and(Json::is_object);
    let call = if has_function { &mut call["function"] } else { call };
    let Some(arguments) = call.get_mut("arguments") else { return };
    let object = arguments.as_str().and_then(|text| serde_json::from_str::<Map<String, Json>>(text).ok());
    if let Some(object) = object {
        *arguments = Json::Object(object);
    }
}

/// Whether this is true of any text in the value, keys included.
fn any_text(value: &Json, is: &impl Fn(&str) -> bool) -> bool {
    match value {
        Json::String(text) => is(text),
        Json::Array(items) => items.iter().any(|item| any_text(item, is)),
        Json::Object(entries) => entries.iter().any(|(key, value)| is(key) || any_text(value, is)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(extra: Json) -> Message {
        let Json::Object(extra) = extra else { panic!("an object") };
        Message { role: "assistant".into(), content: String::new(), extra }
    }

    fn calls(calls: Json) -> Json {
        turn(message(json!({ "tool_calls": calls })), true)["tool_calls"].take()
    }

    #[test]
    fn arguments_that_are_the_text_of_an_object_become_one() {
        assert_eq!(
            calls(json!([
                {"id": "a", "function": {"name": "f", "arguments": "{\"b\": 1, \"a\": \"x\"}"}},
                {"name": "g", "arguments": "{}"},
                {"function": {"name": "h", "arguments": {"c": null}}},
            ])),
            json!([
                {"id": "a", "function": {"name": "f", "arguments": {"b": 1, "a": "x"}}},
                {"name": "g", "arguments": {}},
                {"function": {"name": "h", "arguments": {"c": null}}},
            ])
        );
        for other in [json!([{"name": "python", "arguments": "print(1)"}]), json!(["f()"]), json!([{"function": "f"}])]
        {
            assert_eq!(calls(other.clone()), other, "text of something else stays what it is");
        }
    }

    #[test]
    fn what_is_null_is_not_there() {
        let message = message(json!({"content": null, "tool_calls": null, "name": "a"}));
        assert_eq!(turn(message, true), json!({"role": "assistant", "name": "a"}));
    }

    #[test]
    fn reasoning_is_found_under_the_names_that_templates_read() {
        let names = |extra| turn(message(extra), true);
        for other in ["reasoning", "thinking", "reasoning_content"] {
            let turn = names(json!({ other: "hm" }));
            assert_eq!((&turn["reasoning_content"], &turn["thinking"]), (&json!("hm"), &json!("hm")), "{other}");
        }
        let both = names(json!({"reasoning_content": "hm", "thinking": "ah"}));
        assert_eq!((&both["reasoning_content"], &both["thinking"]), (&json!("hm"), &json!("ah")));
    }

    #[test]
    fn variables_of_the_row_are_not_part_of_its_first_message() {
        let messages = [message(json!({"name": "a", VARIABLES: {"tools": [1]}})), message(json!({}))];
        let conversation = Conversation::new(&messages, true, |_| false).expect("read");
        assert_eq!(conversation.variables.to_string(), "{'tools': [1]}");
        assert_eq!(conversation.turns[0].get_attr("name").expect("an object").as_str(), Some("a"));
        assert!(conversation.turns[0].get_attr(VARIABLES).expect("an object").is_undefined());
    }

    #[test]
    fn variables_cannot_replace_the_conversation() {
        for (variables, named) in [(json!({"messages": []}), "`messages`"), (json!([1]), "no object")] {
            let error =
                Conversation::new(&[message(json!({ VARIABLES: variables }))], true, |_| false).expect_err("refused");
            assert!(error.message().contains(named), "{error}");
        }
    }
}
