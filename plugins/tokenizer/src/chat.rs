//! Conversations: rendered by the chat template, marked where the assistant speaks.

use std::ops::Range;

use mdt_plugin_api::{Error, Message, Rendered, Result, Tokens};

use crate::conversation::Conversation;
use crate::end_of_turn::{end_of_turn, missing_end, special_at};
use crate::template::ChatTemplate;
use crate::tokenizer_file::TokenizerFile;

pub const ASSISTANT: &str = "assistant";

/// A conversation, and what the user should know of how it is rendered.
pub type Noted = (Rendered, Vec<String>);

/// A conversation, as the template renders it and nothing added but the end of a last answer that has none, and which tokens are
/// the assistant's: every turn of it with its end-of-turn token, but those with a weight of 0.
///
/// If the template marks answers with `{% generation %}`, the marked text is the assistant's. For other templates, see
/// [`answers`].
///
/// # Errors
/// The template cannot render it; it is not clear where the answers are.
pub fn render(tokenizer: &TokenizerFile, template: &ChatTemplate, messages: &[Message]) -> Result<Noted> {
    let conversation = template.conversation(messages)?;
    let mut whole = template.render(&conversation, messages.len(), false)?;
    template.require_roles(messages, &whole.text)?;
    let mut tokens = tokenizer.tokens(&whole.text)?;
    let mut notes = Vec::new();
    if let Some((end, note)) = missing_end(tokenizer, template, &conversation, messages, (&whole.text, &tokens))? {
        whole.text += &end;
        tokens = tokenizer.tokens(&whole.text)?;
        notes.push(note);
    }
    let spans = if template.marks_answers() {
        notes.extend(asked_otherwise(template, &conversation, messages, &whole.text)?);
        weighted(template, &conversation, whole.marked)?
    } else {
        let weighted = conversation.weighted.iter();
        let marked = messages.iter().zip(weighted).map(|(message, &weighted)| message.role == ASSISTANT && weighted);
        let marked: Vec<bool> = marked.collect();
        answers(tokenizer, template, &conversation, &marked, (&whole.text, &tokens), &mut notes)?
    };
    let assistant = tokens.inside(&spans);
    Ok((Rendered { text: whole.text, tokens, assistant }, notes))
}

/// What to say of a last answer that does not begin as generation begins it; `None` where it does.
///
/// # Errors
/// The template fails on the conversation.
pub fn asked_otherwise(
    template: &ChatTemplate,
    conversation: &Conversation,
    messages: &[Message],
    whole: &str,
) -> Result<Option<String>> {
    let turn = messages.len().saturating_sub(1);
    if conversation.weighted.last() != Some(&true) || messages.last().is_none_or(|last| last.role != ASSISTANT) {
        return Ok(None);
    }
    let prompt = template.render(conversation, turn, true)?.text;
    if begins_with(whole, &prompt).is_some() {
        return Ok(None);
    }
    let given = template.render(conversation, turn, false)?.text;
    Ok(Some(begins_otherwise(prompt.strip_prefix(&given).unwrap_or(&prompt))))
}

/// The sentence that says how generation begins answers that are shown otherwise.
fn begins_otherwise(prompt: &str) -> String {
    let prompt: String = prompt.trim().chars().take(SHOWN).collect();
    format!(
        "generation begins answers with {prompt:?}, and the chat template shows them without it: they are trained as it shows them \
         (see tokenizer.chat_template_kwargs)"
    )
}

/// The most characters of a prompt that a sentence shows.
const SHOWN: usize = 200;

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
/// An answer begins where the conversation so far, rendered with the generation prompt, ends (see [`begins`]); it ends
/// with the end-of-turn token of the conversation so far, rendered with the answer. Both renderings have to be
/// beginnings of the whole conversation (see [`shared`]): only then is what is trained what the model will see.
fn answers(
    tokenizer: &TokenizerFile,
    template: &ChatTemplate,
    conversation: &Conversation,
    marked: &[bool],
    (whole, pieces): (&str, &Tokens),
    notes: &mut Vec<String>,
) -> Result<Vec<Range<usize>>> {
    let mut spans = Vec::new();
    for turn in (0..marked.len()).filter(|&turn| marked[turn]) {
        let prompt = template.render(conversation, turn, true)?.text;
        let Some((begin, note)) = begins(tokenizer, template, conversation, turn, (whole, pieces), &prompt)? else {
            return Err(difference(template, whole, &prompt, turn, "the prompt of an answer"));
        };
        notes.extend(note.filter(|note| !notes.contains(note)));
        let end = if turn + 1 == marked.len() {
            end_of_turn(tokenizer, whole, pieces, begin..whole.len())
        } else {
            let own = template.render(conversation, turn + 1, false)?.text;
            let ends_otherwise = || difference(template, whole, &own, turn, "the conversation up to an answer");
            let end = shared(tokenizer, whole, pieces, &own)?.ok_or_else(ends_otherwise)?;
            match end_of_turn(tokenizer, whole, pieces, begin..end) {
                None if end_of_turn(tokenizer, &own, &tokenizer.tokens(&own)?, begin..own.len()).is_some() => {
                    return Err(ends_otherwise());
                }
                // The token that begins the next turn.
                found => found.or_else(|| special_at(tokenizer, whole, pieces, end)),
            }
        };
        let end = end.ok_or_else(|| {
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
        spans.push(begin..end);
    }
    Ok(spans)
}

/// Where the answer of a turn begins in the whole conversation: where its prompt ends; and what the user should know of it.
///
/// Templates of reasoning models may ask for an answer with a thought that is begun, or empty, and render answers without
/// it. If all before that is the same, an answer begins with the first token that differs, as in TRL.
fn begins(
    tokenizer: &TokenizerFile,
    template: &ChatTemplate,
    conversation: &Conversation,
    turn: usize,
    (whole, pieces): (&str, &Tokens),
    prompt: &str,
) -> Result<Option<(usize, Option<String>)>> {
    if let Some(end) = begins_with(whole, prompt) {
        return Ok(Some((end, None)));
    }
    let asked = tokenizer.tokens(prompt)?.ids;
    let differs = asked.iter().zip(&pieces.ids).position(|(a, b)| a != b).unwrap_or(asked.len());
    let same = pieces.offsets.get(differs).map_or(whole.len(), |offset| offset.0);
    let given = template.render(conversation, turn, false)?.text;
    if !whole.starts_with(&given) || given.len() > same {
        return Ok(None);
    }
    let Some(asked) = prompt.get(given.len()..) else { return Ok(None) };
    let thought = asked.to_lowercase();
    let asks_for_thought = ["think", "thought", "reason"].iter().any(|word| thought.contains(word));
    let content = conversation.turns[turn].get_attr("content").unwrap_or_default();
    let content = content.as_str().unwrap_or_default().trim();
    let follows = !content.is_empty() && whole[same..].trim_start().starts_with(content);
    let note = asks_for_thought.then(|| begins_otherwise(asked));
    Ok((asks_for_thought || follows).then_some((same, note)))
}

/// Where a prompt ends in a text that begins with it, maybe but for white space: some templates put a line break behind a turn
/// once another follows.
fn begins_with(whole: &str, prompt: &str) -> Option<usize> {
    if whole.starts_with(prompt) {
        return Some(prompt.len());
    }
    let mut rest = whole.char_indices().filter(|(_, character)| !character.is_whitespace());
    let mut end = 0;
    for wanted in prompt.chars().filter(|character| !character.is_whitespace()) {
        let (at, found) = rest.next()?;
        if found != wanted {
            return None;
        }
        end = at + found.len_utf8();
    }
    let behind = prompt.len() - prompt.trim_end().len();
    let found = whole[end..].len() - whole[end..].trim_start().len();
    Some(end + behind.min(found))
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
