//! Tool calls in a message.

use mdt_plugin_api::serde_json::{Value, from_str, json};
use mdt_plugin_api::{Error, Result};

use super::advice::wrong_type;

/// Checks that `tool_calls` of a message are calls, each of which names its function; `place` is where they are.
/// Returns whether there are any.
pub(super) fn check(place: &str, calls: Option<&Value>) -> Result<bool> {
    let calls = match calls {
        None | Some(Value::Null) => return Ok(false),
        Some(Value::Array(calls)) => calls,
        Some(other) => return Err(wrong_type(place, "an array of calls", other)),
    };
    for (index, call) in calls.iter().enumerate() {
        let named = call.get("function").unwrap_or(call).get("name").is_some_and(Value::is_string);
        if !named {
            return Err(Error::input(format!("`{place}[{index}]` does not name the function that it calls")).help(
                "a call is { \"type\": \"function\", \"function\": { \"name\": \"…\", \"arguments\": { … } } }",
            ));
        }
    }
    Ok(!calls.is_empty())
}

/// The calls that a ShareGPT turn of `function_call` has as its value: `{ name, arguments }` or several, as JSON or as
/// the text of that.
pub(super) fn read(place: &str, value: Value) -> Result<Value> {
    let value = match value {
        Value::String(text) => from_str(&text).map_err(|error| {
            Error::input(format!("`{place}` is text that is no JSON"))
                .caused_by(error)
                .help("a turn of `function_call` holds { \"name\": \"…\", \"arguments\": { … } }")
        })?,
        other => other,
    };
    let calls = match value {
        Value::Array(calls) => calls,
        one => vec![one],
    };
    let wrapped = |call: Value| json!({"type": "function", "function": call});
    Ok(calls.into_iter().map(|call| if call.get("function").is_some() { call } else { wrapped(call) }).collect())
}
