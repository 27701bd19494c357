//! The token that ends an assistant's turn: which one it is, where a turn ends, and which tokens end an answer.

use std::ops::Range;

use mdt_plugin_api::Message;

use crate::chat::{ASSISTANT, encode};
use crate::directory::ModelDirectory;
use crate::template::ChatTemplate;
use crate::tokenizer::{Pieces, Tokenizer};

/// The tokens that end an answer: end of sequence, what the model's configuration names, and what the chat template
/// ends an answer with.
pub fn stop_tokens(directory: &ModelDirectory, tokenizer: &Tokenizer, template: Option<&ChatTemplate>) -> Vec<u32> {
    let mut stop: Vec<u32> = tokenizer.eos().into_iter().chain(directory.stop_ids()).collect();
    stop.extend(template.and_then(|template| end_of_turn_token(tokenizer, template)));
    stop.sort_unstable();
    stop.dedup();
    stop
}

/// The special token with which the template ends an answer, found out on a short conversation; `None` where the
/// template does not render that one.
fn end_of_turn_token(tokenizer: &Tokenizer, template: &ChatTemplate) -> Option<u32> {
    let say = |role: &str| Message { role: role.into(), content: "Hello".into(), ..Message::default() };
    let (ids, supervised) = encode(tokenizer, template, &[say("user"), say(ASSISTANT)]).ok()?;
    let last = supervised.iter().rposition(|&trained| trained)?;
    Some(ids[last]).filter(|&id| tokenizer.is_special(id))
}

/// Where the last special token of a turn ends, provided that nothing but white space follows it in the turn.
///
/// White space after it (ChatML's newline) belongs to the template: the model has stopped before it.
pub fn end_of_turn(tokenizer: &Tokenizer, text: &str, pieces: &Pieces, turn: Range<usize>) -> Option<usize> {
    let last = (0..pieces.ids.len())
        .rev()
        .filter(|&token| turn.contains(&pieces.offsets[token].0))
        .find(|&token| tokenizer.is_special(pieces.ids[token]))?;
    let end = pieces.offsets[last].1;
    text.get(end..turn.end).unwrap_or_default().trim().is_empty().then_some(end)
}
