//! Rows that need no template: a prompt with its completion, and plain text.

use mdt_plugin_api::Result;

use crate::tokenizer::Tokenizer;

/// Tokens of a row and which of them are trained.
pub type Masked = (Vec<u32>, Vec<bool>);

/// `bos prompt completion eos`; the completion and eos are trained.
///
/// The two are tokenised as one text. Where a token would reach from the prompt into the completion they are tokenised
/// apart, so that the prompt is what the model will be given later.
pub fn prompt_completion(tokenizer: &Tokenizer, prompt: &str, completion: &str) -> Result<Masked> {
    let given = tokenizer.tokens_from_start(prompt)?;
    let mut ids = tokenizer.tokens_from_start(&format!("{prompt}{completion}"))?;
    if !ids.starts_with(&given) {
        ids = [given.as_slice(), &tokenizer.pieces(completion)?.ids].concat();
    }
    let mut answer = ids.split_off(given.len());
    tokenizer.end(&mut answer)?;
    Ok(trained_after(given, answer))
}

/// `bos text eos`, all of it trained.
pub fn text(tokenizer: &Tokenizer, text: &str) -> Result<Masked> {
    let mut ids = tokenizer.tokens_from_start(text)?;
    tokenizer.end(&mut ids)?;
    Ok(trained_after(Vec::new(), ids))
}

fn trained_after(given: Vec<u32>, trained: Vec<u32>) -> Masked {
    let mut supervised = vec![false; given.len()];
    supervised.resize(given.len() + trained.len(), true);
    let mut ids = given;
    ids.extend(trained);
    // Nothing comes before the first token that it could be predicted from.
    if let Some(first) = supervised.first_mut() {
        *first = false;
    }
    (ids, supervised)
}
