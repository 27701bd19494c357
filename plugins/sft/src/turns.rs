//! The answers of a conversation, each as generation will see it.
//!
//! Templates of reasoning models show answers otherwise once others follow: they drop the reasoning. The tokenizer then
//! has no mask for the whole conversation, and each answer is trained in its own: what was said before it, as the template
//! shows it at that time, and the answer.

use mdt_plugin_api::serde_json::Value;
use mdt_plugin_api::{Message, Rendered, Result, Tokenizer};

/// A conversation, and what the user should know of it.
type Noted = (Rendered, Vec<String>);

const ASSISTANT: &str = "assistant";
/// The key of a message whose answer is not trained.
const WEIGHT: &str = "weight";

/// All answers: in the whole conversation or, where that shows some of them otherwise, one sequence for each of them.
///
/// # Errors
/// The conversation cannot be rendered, or no mask is right for one of its answers alone.
pub fn all(tokenizer: &dyn Tokenizer, messages: &[Message]) -> Result<Vec<Noted>> {
    let whole = match tokenizer.render_noted(messages) {
        Ok(whole) => return Ok(vec![whole]),
        Err(whole) => whole,
    };
    let answers: Vec<usize> =
        (0..messages.len()).filter(|&turn| messages[turn].role == ASSISTANT && is_trained(&messages[turn])).collect();
    if answers.is_empty() || answers == [messages.len() - 1] {
        return Err(whole);
    }
    answers.into_iter().map(|turn| alone(tokenizer, &messages[..=turn])).collect()
}

/// The last answer, with what was said before it.
///
/// # Errors
/// As for [`all`].
pub fn last(tokenizer: &dyn Tokenizer, messages: &[Message]) -> Result<Noted> {
    match messages.iter().rposition(|message| message.role == ASSISTANT) {
        Some(turn) => alone(tokenizer, &messages[..=turn]),
        None => tokenizer.render_noted(messages),
    }
}

/// The messages, none of which is trained.
pub fn untrained(messages: &[Message]) -> Vec<Message> {
    messages.iter().cloned().map(without_weight).collect()
}

/// A conversation of which only the last message is trained.
fn alone(tokenizer: &dyn Tokenizer, messages: &[Message]) -> Result<Noted> {
    let mut messages = messages.to_vec();
    let answer = messages.pop();
    let mut messages = untrained(&messages);
    messages.extend(answer);
    tokenizer.render_noted(&messages)
}

fn without_weight(mut message: Message) -> Message {
    message.extra.insert(WEIGHT.to_owned(), Value::from(0));
    message
}

fn is_trained(message: &Message) -> bool {
    let is_no = |value: &Value| value.as_f64() == Some(0.0) || value.as_bool() == Some(false);
    ![WEIGHT, "train"].iter().any(|key| message.extra.get(*key).is_some_and(is_no))
}
