//! A conversation in the form that chat templates take: messages as values, and the row's further variables.

use mdt_plugin_api::{Content, Error, Message, Result};
use minijinja::Value;
use minijinja::value::Serde;
use serde_json::{Map, Value as Json};

use crate::python_json;

/// Where a row's own variables for the template are (`tools`, `documents`, `enable_thinking`): an object under this key of
/// the first message, which transformers' trainers have as a column of the same name.
const VARIABLES: &str = Content::VARIABLES;

/// Variables that are the conversation itself.
pub const RESERVED: [&str; 2] = ["messages", "add_generation_prompt"];

/// The keys of a message that say whether it is trained: 0 or 1 as in OpenAI's format, or true or false as other trainers
/// have it. Templates do not get them.
const WEIGHTS: [&str; 2] = ["weight", "train"];

/// Names for the reasoning of a message. Templates read the first; some read the second.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Where data sources leave the parts that a content came in, which is their text.
const PARTS: &str = "content_parts";

/// How a template takes the calls of tools and content in parts, as trying them has shown.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Forms {
    /// Whether it takes the arguments of a call as an object; otherwise they are text.
    pub objects: bool,
    /// Whether the ids of calls need nine letters and digits, as Mistral's do.
    pub short_ids: bool,
    /// The roles whose content it takes in parts.
    pub parts: [bool; 4],
}

impl Forms {
    /// The roles that [`Forms::parts`] is of.
    pub const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

    fn takes_parts(&self, role: &str) -> bool {
        Self::ROLES.iter().zip(self.parts).any(|(known, takes)| *known == role && takes)
    }
}

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
    /// Makes one from the messages of a row, in these forms. `forbidden` says which text must not occur.
    ///
    /// OpenAI's interface writes arguments of calls as text, and most templates are written for objects:
    /// `arguments | tojson` of text would teach the model to quote its arguments twice.
    ///
    /// # Errors
    /// Such text; variables that are no object, or that would replace the conversation; weights other than 0 and 1.
    pub fn new(messages: &[Message], forms: &Forms, forbidden: impl Fn(&str) -> bool) -> Result<Self> {
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
        let turns = messages.into_iter().map(|message| turn(message, forms)).collect::<Vec<_>>();
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

impl Conversation {
    /// These turns, without variables.
    pub fn of<const N: usize>(turns: [Json; N]) -> Self {
        Self {
            turns: turns.into_iter().map(|turn| Value::from(Serde(turn))).collect(),
            variables: Value::from(Serde(Map::<String, Json>::new())),
            weighted: vec![true; N],
        }
    }

    /// The same with one more turn.
    pub fn followed_by(&self, turn: Json) -> Self {
        let mut turns = self.turns.clone();
        turns.push(Value::from(Serde(turn)));
        Self { turns, variables: self.variables.clone(), weighted: [&self.weighted[..], &[false]].concat() }
    }
}

/// Removes the weight of a message and returns whether it is not 0.
fn weight(turn: usize, message: &mut Message) -> Result<bool> {
    let mut is_trained = true;
    for key in WEIGHTS {
        is_trained &= match message.extra.shift_remove(key) {
            None | Some(Json::Null) => true,
            Some(Json::Bool(trained)) => trained,
            Some(weight) if weight.as_f64() == Some(0.0) => false,
            Some(weight) if weight.as_f64() == Some(1.0) => true,
            Some(other) => {
                return Err(Error::input(format!("the `{key}` of a message is {other}"))
                    .with("message", turn + 1)
                    .help("a weight is 0 (this answer is not trained) or 1 (it is)"));
            }
        };
    }
    Ok(is_trained)
}

/// A message with all its keys but those that are null, as transformers gives them to templates: these take a missing
/// key better than a null. A `content` of null in `extra` therefore says that the message has none.
fn turn(message: Message, forms: &Forms) -> Json {
    let takes_parts = forms.takes_parts(&message.role);
    let mut turn = Map::new();
    turn.insert("role".into(), message.role.into());
    turn.insert("content".into(), message.content.into());
    turn.extend(message.extra);
    turn.retain(|_, value| !value.is_null());
    if let Some(reasoning) = REASONING.iter().find_map(|name| turn.get(*name).cloned()) {
        turn.insert(REASONING[0].into(), reasoning.clone());
        turn.entry(REASONING[1]).or_insert(reasoning);
    }
    if let Some(parts) = turn.shift_remove(PARTS).filter(|_| takes_parts) {
        turn.insert("content".into(), parts);
    }
    if let Some(Json::Array(calls)) = turn.get_mut("tool_calls") {
        calls.iter_mut().for_each(|call| rewrite_arguments(call, forms.objects));
    }
    if forms.short_ids {
        let calls = turn.get_mut("tool_calls").and_then(Json::as_array_mut);
        calls.into_iter().flatten().for_each(|call| shorten(call.get_mut("id")));
        shorten(turn.get_mut("tool_call_id"));
    }
    Json::Object(turn)
}

/// Arguments of a call as an object, where they are the text of one; or as text, where they are an object.
fn rewrite_arguments(call: &mut Json, objects: bool) {
    let has_function = call.get("function").is_some_and(Json::is_object);
    let call = if has_function { &mut call["function"] } else { call };
    match call.get_mut("arguments") {
        Some(Json::String(text)) if objects => {
            if let Ok(object) = serde_json::from_str::<Map<String, Json>>(text) {
                call["arguments"] = Json::Object(object);
            }
        }
        Some(arguments @ Json::Object(_)) if !objects => *arguments = python_json::dumps(arguments).into(),
        _ => {}
    }
}

/// Nine letters and digits in the place of an id of another form, the same for the same id (FNV-1a).
fn shorten(id: Option<&mut Json>) {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let Some(Json::String(id)) = id else { return };
    if id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return;
    }
    let mut hash = id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    *id = (0..9)
        .map(|_| {
            let digit = DIGITS[(hash % 36) as usize];
            hash /= 36;
            char::from(digit)
        })
        .collect();
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

    const OBJECTS: Forms = Forms { objects: true, short_ids: false, parts: [false; 4] };

    fn message(extra: Json) -> Message {
        let Json::Object(extra) = extra else { panic!("an object") };
        Message { role: "assistant".into(), content: String::new(), extra }
    }

    fn calls(calls: Json) -> Json {
        turn(message(json!({ "tool_calls": calls })), &OBJECTS)["tool_calls"].take()
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
    fn arguments_are_text_for_a_template_that_takes_no_objects() {
        let calls = json!([{"function": {"name": "f", "arguments": {"b": 1.0, "a": ["ü"]}}}]);
        let forms = Forms { objects: false, ..OBJECTS };
        let given = &turn(message(json!({ "tool_calls": calls })), &forms)["tool_calls"][0]["function"]["arguments"];
        assert_eq!(*given, json!("{\"b\": 1.0, \"a\": [\"ü\"]}"));
    }

    #[test]
    fn ids_of_another_form_are_shortened_alike_in_calls_and_their_results() {
        let forms = Forms { short_ids: true, ..OBJECTS };
        let given = turn(message(json!({"tool_calls": [{"id": "call_abc"}], "tool_call_id": "call_abc"})), &forms);
        let id = given["tool_call_id"].as_str().expect("text");
        assert!(id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id}");
        assert_eq!(given["tool_calls"][0]["id"], id);
        let kept = turn(message(json!({"tool_call_id": "call00001"})), &forms);
        assert_eq!(kept["tool_call_id"], "call00001");
    }

    #[test]
    fn parts_of_text_are_given_for_roles_whose_content_may_be_parts() {
        let parts = json!([{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]);
        let given = |forms: &Forms| {
            let message = Message { content: "a b".into(), ..message(json!({ PARTS: parts })) };
            turn(message, forms)
        };
        assert_eq!(given(&OBJECTS), json!({"role": "assistant", "content": "a b"}));
        let takes = Forms { parts: [false, false, true, false], ..OBJECTS };
        assert_eq!(given(&takes), json!({"role": "assistant", "content": parts}));
    }

    #[test]
    fn a_message_may_say_in_two_ways_that_it_is_not_trained() {
        for (extra, expected) in [
            (json!({"weight": 0}), Some(false)),
            (json!({"train": false}), Some(false)),
            (json!({"weight": 1, "train": true}), Some(true)),
            (json!({"weight": 0.5}), None),
            (json!({"train": "no"}), None),
        ] {
            let found = Conversation::new(&[message(extra.clone())], &OBJECTS, |_| false);
            assert_eq!(found.ok().map(|conversation| conversation.weighted[0]), expected, "{extra}");
        }
    }

    #[test]
    fn what_is_null_is_not_there() {
        let message = message(json!({"content": null, "tool_calls": null, "name": "a"}));
        assert_eq!(turn(message, &OBJECTS), json!({"role": "assistant", "name": "a"}));
    }

    #[test]
    fn reasoning_is_found_under_the_names_that_templates_read() {
        let names = |extra| turn(message(extra), &OBJECTS);
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
        let conversation = Conversation::new(&messages, &OBJECTS, |_| false).expect("read");
        assert_eq!(conversation.variables.to_string(), "{'tools': [1]}");
        assert_eq!(conversation.turns[0].get_attr("name").expect("an object").as_str(), Some("a"));
        assert!(conversation.turns[0].get_attr(VARIABLES).expect("an object").is_undefined());
    }

    #[test]
    fn variables_cannot_replace_the_conversation() {
        for (variables, named) in [(json!({"messages": []}), "`messages`"), (json!([1]), "no object")] {
            let error = Conversation::new(&[message(json!({ VARIABLES: variables }))], &OBJECTS, |_| false)
                .expect_err("refused");
            assert!(error.message().contains(named), "{error}");
        }
    }
}
