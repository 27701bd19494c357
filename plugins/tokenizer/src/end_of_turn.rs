//! The token that ends an assistant's turn: which one it is, where a turn ends, and which tokens end an answer.

use std::ops::Range;

use mdt_plugin_api::{Message, Tokens};

use crate::chat::{ASSISTANT, render};
use crate::directory::ModelDirectory;
use crate::template::ChatTemplate;
use crate::tokenizer_file::TokenizerFile;

/// The tokens that end an answer: the end-of-sequence token, those that the model's configuration names, and the token
/// that the chat template puts after an answer.
pub fn stop_tokens(directory: &ModelDirectory, tokenizer: &TokenizerFile, template: Option<&ChatTemplate>) -> Vec<u32> {
    let mut stop: Vec<u32> = tokenizer.eos().into_iter().chain(directory.stop_ids()).collect();
    stop.extend(template.and_then(|template| end_of_turn_token(tokenizer, template)));
    stop.sort_unstable();
    stop.dedup();
    stop
}

/// The special token that the template puts after an answer, taken from a short conversation; `None` if the template
/// cannot render that conversation.
fn end_of_turn_token(tokenizer: &TokenizerFile, template: &ChatTemplate) -> Option<u32> {
    let say = |role: &str| Message { role: role.into(), content: "Hello".into(), ..Message::default() };
    let rendered = render(tokenizer, template, &[say("user"), say(ASSISTANT)]).ok()?;
    let last = rendered.assistant.iter().rposition(|&marked| marked)?;
    Some(rendered.tokens.ids[last]).filter(|&id| tokenizer.is_special(id))
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
