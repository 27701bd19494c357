//! The token that ends an assistant's turn: which one it is, where a turn ends, and which tokens end an answer.

use std::ops::Range;

use mdt_plugin_api::{Message, Result, Tokens};
use serde_json::json;

use crate::chat::{ASSISTANT, render};
use crate::conversation::Conversation;
use crate::directory::ModelDirectory;
use crate::template::ChatTemplate;
use crate::tokenizer_file::TokenizerFile;

/// The tokens that end an answer: the end-of-sequence token, those that the model's configuration names, and the token
/// that a chat template puts after an answer.
pub fn stop_tokens<'a>(
    directory: &ModelDirectory,
    tokenizer: &TokenizerFile,
    templates: impl Iterator<Item = &'a ChatTemplate>,
) -> Vec<u32> {
    let mut stop: Vec<u32> = tokenizer.eos().into_iter().chain(directory.stop_ids()).collect();
    stop.extend(templates.filter_map(|template| end_of_turn_token(tokenizer, template)));
    stop.sort_unstable();
    stop.dedup();
    stop
}

/// The special token that the template puts after an answer, taken from a short conversation; `None` if the template
/// cannot render that conversation.
fn end_of_turn_token(tokenizer: &TokenizerFile, template: &ChatTemplate) -> Option<u32> {
    let say = |role: &str| Message { role: role.into(), content: "Hello".into(), ..Message::default() };
    let (rendered, _) = render(tokenizer, template, &[say("user"), say(ASSISTANT)]).ok()?;
    let last = rendered.assistant.iter().rposition(|&marked| marked)?;
    Some(rendered.tokens.ids[last]).filter(|&id| tokenizer.is_special(id))
}

/// The end of a last answer that the template ends with no special token, and the sentence that says so. It is the special token
/// that would follow if the conversation went on: the template leaves it out, as Apertus' does, or the next turn's first token
/// is the end, as GLM's is. Where there is none, it is the end-of-sequence token, at which generation stops.
///
/// # Errors
/// The conversation cannot be tokenized.
pub fn missing_end(
    tokenizer: &TokenizerFile,
    template: &ChatTemplate,
    conversation: &Conversation,
    messages: &[Message],
    (text, pieces): (&str, &Tokens),
) -> Result<Option<(String, String)>> {
    let is_trained = conversation.weighted.last() == Some(&true) && !template.marks_answers();
    let Some(last) = messages.last().filter(|last| is_trained && last.role == ASSISTANT) else { return Ok(None) };
    if end_of_turn(tokenizer, text, pieces, 0..text.len()).is_some() {
        return Ok(None);
    }
    let follower = match last.extra.get("tool_calls").and_then(|calls| calls.get(0)) {
        Some(call) => {
            json!({"role": "tool", "content": "a", "name": call["function"]["name"], "tool_call_id": call["id"]})
        }
        None => json!({"role": "user", "content": "a"}),
    };
    let longer = conversation.followed_by(follower);
    // What follows a short answer, where the template drops reasoning of this one once it goes on.
    let say = |role: &str| json!({"role": role, "content": "Hello"});
    let short = Conversation::of([say("user"), say(ASSISTANT)]);
    let short_text = template.render(&short, 2, false).map(|rendered| rendered.text).unwrap_or_default();
    for (text, longer) in [(text, longer), (&short_text, short.followed_by(say("user")))] {
        // A template that takes no further turn has no such token.
        let Ok(longer) = template.render(&longer, longer.turns.len(), false) else { continue };
        if !text.is_empty()
            && longer.text.starts_with(text)
            && let Some(end) = special_at(tokenizer, &longer.text, &tokenizer.tokens(&longer.text)?, text.len())
        {
            let end = longer.text[text.len()..end].to_owned();
            let note = format!(
                "the chat template leaves out the end of a last answer, {:?}, at which generation stops: it is trained, too",
                end.trim()
            );
            return Ok(Some((end, note)));
        }
    }
    let Some(eos) = tokenizer.eos_text() else { return Ok(None) };
    let whole = format!("{text}{eos}");
    let is_its_end = special_at(tokenizer, &whole, &tokenizer.tokens(&whole)?, text.len()) == Some(whole.len());
    let note = format!(
        "the chat template ends answers with no token: the end-of-sequence token, {eos:?}, at which generation stops, is trained \
         after each"
    );
    Ok(is_its_end.then_some((eos, note)))
}

/// Where the special token ends that follows here, maybe after white space.
pub fn special_at(tokenizer: &TokenizerFile, text: &str, pieces: &Tokens, place: usize) -> Option<usize> {
    let special = |token: &usize| pieces.offsets[*token].0 >= place && tokenizer.is_special(pieces.ids[*token]);
    let (start, end) = pieces.offsets[(0..pieces.ids.len()).find(special)?];
    text.get(place..start)?.trim().is_empty().then_some(end)
}

/// Where the last special token of a turn ends; `None` if other text than white space follows it in the turn.
///
/// White space after it (ChatML's newline) belongs to the template: the model stops before it.
pub fn end_of_turn(tokenizer: &TokenizerFile, text: &str, pieces: &Tokens, turn: Range<usize>) -> Option<usize> {
    let last = (0..pieces.ids.len())
        .rev()
        .filter(|&token| turn.contains(&pieces.offsets[token].0))
        .find(|&token| tokenizer.is_special(pieces.ids[token]))?;
    let end = pieces.offsets[last].1;
    text.get(end..turn.end).unwrap_or_default().trim().is_empty().then_some(end)
}
