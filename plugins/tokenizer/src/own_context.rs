//! An answer in its own context: its prompt as generation has it, and behind it the answer as the template shows it.
//!
//! Some templates show a question otherwise once it is answered. gpt-oss drops what was thought before a call of a tool, and
//! Command R+ shows its instructions behind whatever was said last. In the rendering of the whole conversation the answer then
//! follows what no prompt has.

use mdt_plugin_api::{Rendered, Result, Tokens};

use crate::chat::Noted;
use crate::conversation::Conversation;
use crate::end_of_turn::{end_of_turn, special_at};
use crate::template::ChatTemplate;
use crate::tokenizer_file::TokenizerFile;

const NOTE: &str = "the chat template shows a question otherwise once it is answered: the answer is trained behind the question as \
    generation sees it";

/// The last answer behind its prompt; `None` where it is not clear what of the `whole` rendering it is.
///
/// # Errors
/// The template fails on the conversation, or the text cannot be tokenized.
pub fn render(
    tokenizer: &TokenizerFile,
    template: &ChatTemplate,
    conversation: &Conversation,
    whole: &str,
) -> Result<Option<Noted>> {
    let Some(turn) = conversation.turns.len().checked_sub(1) else { return Ok(None) };
    let prompt = template.render(conversation, turn, true)?.text;
    let given = template.render(conversation, turn, false)?.text;
    let content = conversation.turns[turn].get_attr("content").unwrap_or_default();
    let content = content.as_str().unwrap_or_default().trim();
    // What opens an answer; `given` may be closed otherwise.
    let opening = prompt.strip_prefix(&given).unwrap_or_default();
    let Some(begin) = begin(whole, &prompt, opening, content) else { return Ok(None) };
    let pieces = tokenizer.tokens(whole)?;
    let said = whole[begin..].rfind(content).map_or(begin, |at| begin + at + content.len());
    let of_content = || special_at(tokenizer, whole, &pieces, said).filter(|_| !content.is_empty());
    let asked = tokenizer.tokens(&prompt[..prompt.len() - opening.len()])?;
    let end = of_content()
        .or_else(|| before_what_follows(tokenizer, &pieces, begin, &asked))
        .or_else(|| end_of_turn(tokenizer, whole, &pieces, begin..whole.len()));
    let Some(answer) = end.and_then(|end| whole.get(begin..end)) else { return Ok(None) };
    let text = format!("{prompt}{answer}");
    let tokens = tokenizer.tokens(&text)?;
    let assistant = tokens.inside(std::slice::from_ref(&(prompt.len()..text.len())));
    Ok(Some((Rendered { text, tokens, assistant }, vec![NOTE.to_owned()])))
}

/// Where the last answer begins in the whole rendering: behind the opening before which most is as in the prompt; of several the
/// last one. Where nothing opens answers, it is where the content of the last one is.
fn begin(whole: &str, prompt: &str, opening: &str, content: &str) -> Option<usize> {
    if opening.trim().is_empty() {
        return whole.rfind(content).filter(|_| !content.is_empty());
    }
    let same = |end: usize| whole[..end].bytes().rev().zip(prompt.bytes().rev()).take_while(|(a, b)| a == b).count();
    let ends = whole.match_indices(opening).map(|(at, _)| at + opening.len());
    ends.filter(|&end| whole[end..].contains(content)).max_by_key(|&end| (same(end), end))
}

/// Where an answer from `begin` on ends that is followed by what stands before its opening in the prompt, `asked`: behind the first
/// special token of what the two end with alike.
fn before_what_follows(tokenizer: &TokenizerFile, pieces: &Tokens, begin: usize, asked: &Tokens) -> Option<usize> {
    let same = pieces.ids.iter().rev().zip(asked.ids.iter().rev()).take_while(|(a, b)| a == b).count();
    let special = |token: &usize| pieces.offsets[*token].0 >= begin && tokenizer.is_special(pieces.ids[*token]);
    (pieces.ids.len() - same..pieces.ids.len()).find(special).map(|token| pieces.offsets[token].1)
}

#[cfg(test)]
mod tests {
    use super::begin;

    #[test]
    fn an_answer_begins_behind_the_opening_that_its_prompt_ends_with() {
        // What was thought before the call is dropped once the answer follows, which has two openings itself.
        let whole = "<u>q<a>call<t>r<a>thought<a>answer<e>";
        assert_eq!(begin(whole, "<u>q<a>thought<a>call<t>r<a>", "<a>", "answer"), Some(17));
        // Instructions come behind the answer.
        let whole = "<u>q<a>b<u>r<a>answer<e>instructions";
        assert_eq!(begin(whole, "<u>q<a>b<u>rinstructions<a>", "<a>", "answer"), Some(14));
        assert_eq!(begin("<u>q answer<e>", "<u>q<e>", "", "answer"), Some(5));
        assert_eq!(begin("<u>q<a>other", "<u>p<a>", "<a>", "answer"), None);
    }
}
