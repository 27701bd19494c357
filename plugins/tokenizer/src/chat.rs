//! Conversations: rendered by the chat template, marked where the assistant speaks.

use std::ops::Range;

use mdt_plugin_api::{Error, Message, Rendered, Result, Tokens};

use crate::conversation::Conversation;
use crate::end_of_turn::end_of_turn;
use crate::template::ChatTemplate;
use crate::tokenizer_file::TokenizerFile;

pub const ASSISTANT: &str = "assistant";

/// A conversation, as the template renders it and nothing added, and which tokens are the assistant's: every turn of it
/// with its end-of-turn token, but those with a weight of 0.
///
/// If the template marks answers with `{% generation %}`, the marked text is the assistant's. For other templates, see
/// [`answers`].
///
/// # Errors
/// The template cannot render it; it is not clear where the answers are.
pub fn render(tokenizer: &TokenizerFile, template: &ChatTemplate, messages: &[Message]) -> Result<Rendered> {
    let conversation = template.conversation(messages)?;
    let whole = template.render(&conversation, messages.len(), false)?;
    let tokens = tokenizer.tokens(&whole.text)?;
    let spans = if template.marks_answers() {
        weighted(template, &conversation, whole.marked)?
    } else {
        let weighted = conversation.weighted.iter();
        let marked = messages.iter().zip(weighted).map(|(message, &weighted)| message.role == ASSISTANT && weighted);
        answers(tokenizer, template, &conversation, &marked.collect::<Vec<_>>(), &whole.text, &tokens)?
    };
    let assistant = tokens.inside(&spans);
    Ok(Rendered { text: whole.text, tokens, assistant })
}

/// Everything before the last answer, including the start of the assistant's turn.
pub fn render_prompt(tokenizer: &TokenizerFile, template: &ChatTemplate, messages: &[Message]) -> Result<Rendered> {
    let given = match messages {
        [given @ .., last] if last.role == ASSISTANT => given,
        all => all,
    };
    let text = template.render(&template.conversation(given)?, given.len(), true)?.text;
    let tokens = tokenizer.tokens(&text)?;
    Ok(Rendered { text, assistant: vec![false; tokens.ids.len()], tokens })
}

/// The marked spans without those of messages whose weight is 0.
///
/// A message's spans are those that a rendering has more up to that message than before it.
fn weighted(
    template: &ChatTemplate,
    conversation: &Conversation,
    marked: Vec<Range<usize>>,
) -> Result<Vec<Range<usize>>> {
    let spans_before = |turn: usize| match turn {
        0 => Ok(0),
        turn if turn == conversation.turns.len() => Ok(marked.len()),
        turn => template.render(conversation, turn, false).map(|rendered| rendered.marked.len()),
    };
    let mut kept = vec![true; marked.len()];
    for turn in (0..conversation.turns.len()).filter(|&turn| !conversation.weighted[turn]) {
        match kept.get_mut(spans_before(turn)?..spans_before(turn + 1)?) {
            Some(own) => own.fill(false),
            None => {
                return Err(template
                    .error("a message has the weight 0, and the chat template does not mark each message on its own")
                    .with("message", turn + 1));
            }
        }
    }
    Ok(marked.into_iter().zip(kept).filter_map(|(span, kept)| kept.then_some(span)).collect())
}

/// Where the answers are that are marked, for a template that does not do so itself.
///
/// An answer begins where the conversation so far, rendered with the generation prompt, ends; it ends with the
/// end-of-turn token of the conversation so far, rendered with the answer. Both renderings have to be beginnings of
/// the whole conversation (see [`shared`]): only then is what is trained what the model will see.
fn answers(
    tokenizer: &TokenizerFile,
    template: &ChatTemplate,
    conversation: &Conversation,
    marked: &[bool],
    whole: &str,
    pieces: &Tokens,
) -> Result<Vec<Range<usize>>> {
    let mut spans = Vec::new();
    for turn in (0..marked.len()).filter(|&turn| marked[turn]) {
        let prompt = template.render(conversation, turn, true)?.text;
        if !whole.starts_with(&prompt) {
            return Err(difference(template, whole, &prompt, turn, "the prompt of an answer"));
        }
        let end = if turn + 1 == marked.len() {
            whole.len()
        } else {
            let rendered = template.render(conversation, turn + 1, false)?.text;
            match shared(tokenizer, whole, pieces, &rendered)? {
                Some(end) => end,
                None => {
                    return Err(difference(template, whole, &rendered, turn, "the conversation up to an answer"));
                }
            }
        };
        let end = end_of_turn(tokenizer, whole, pieces, prompt.len()..end).ok_or_else(|| {
            template
                .error(
                    "the chat template ends the assistant's turns with no special token, so that no answer would end",
                )
                .with("message", turn + 1)
                .help(
                    "add {{ eos_token }} after the assistant's content in a template of your own \
                     (tokenizer.chat_template), or mark what is to be trained with {% generation %}",
                )
        })?;
        spans.push(prompt.len()..end);
    }
    Ok(spans)
}

/// How many bytes of a rendering are how the whole conversation begins, if that is all of it but special tokens and
/// white space: a template may close whatever it renders, as Phi-3's does with an end of text.
fn shared(tokenizer: &TokenizerFile, whole: &str, pieces: &Tokens, rendered: &str) -> Result<Option<usize>> {
    if whole.starts_with(rendered) {
        return Ok(Some(rendered.len()));
    }
    let own = tokenizer.tokens(rendered)?;
    let same = own.ids.iter().zip(&pieces.ids).take_while(|(a, b)| a == b).count();
    let closes = |token: usize| {
        let (start, end) = own.offsets[token];
        tokenizer.is_special(own.ids[token]) || rendered.get(start..end).is_some_and(|text| text.trim().is_empty())
    };
    let closed = same < own.ids.len() && (same..own.ids.len()).all(closes);
    Ok(closed.then(|| own.offsets[same].0))
}

/// The error for a rendering that is no beginning of the whole conversation.
fn difference(template: &ChatTemplate, whole: &str, rendered: &str, turn: usize, what: &str) -> Error {
    let same = whole.chars().zip(rendered.chars()).take_while(|(a, b)| a == b).count();
    template
        .error(format!("the chat template renders {what} differently from the same messages in the whole conversation"))
        .with("message", turn + 1)
        .with("there", excerpt(rendered, same))
        .with("in the whole conversation", excerpt(whole, same))
        .help(
            "the template changes earlier turns (it may drop reasoning from them, see tokenizer.chat_template_kwargs): \
             give the row up to one answer only, or mark what is to be trained with {% generation %} in a template of \
             your own (tokenizer.chat_template)",
        )
}

/// Some characters before and after a place.
fn excerpt(text: &str, place: usize) -> String {
    let shown: String = text.chars().skip(place.saturating_sub(20)).take(40).collect();
    format!("{shown:?}")
}
