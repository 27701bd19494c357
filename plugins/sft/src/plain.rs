//! Rows that need no template: a prompt with its completion, and plain text.

use std::slice;

use mdt_plugin_api::Result;

use crate::mask;
use crate::tokenizer::Tokenizer;

/// Tokens of a row and which of them are trained.
pub type Masked = (Vec<u32>, Vec<bool>);

/// `bos prompt completion eos`; the completion and eos are trained. Also says whether one token holds both the end of
/// the prompt and the start of the completion. Plain text is a completion without a prompt.
///
/// The two are tokenized as one text, as in pre-training. A completion that is tokenized alone would get the space that
/// SentencePiece puts before every text.
pub fn prompt_completion(tokenizer: &Tokenizer, prompt: &str, completion: &str) -> Result<(Masked, bool)> {
    let seam = prompt.len();
    let pieces = tokenizer.pieces(&format!("{prompt}{completion}"))?;
    let joined = pieces.offsets.iter().any(|&(start, end)| start < seam && seam < end);
    let prefix = tokenizer.prefix(&pieces.ids);
    let mut supervised = vec![false; prefix.len()];
    let span = seam..seam + completion.len();
    supervised.extend(mask::supervised(&pieces.offsets, slice::from_ref(&span)));
    let mut ids = [prefix, &pieces.ids].concat();
    let eos = tokenizer.require_eos()?;
    // A completion may bring its own.
    if !(supervised.last() == Some(&true) && ids.last() == Some(&eos)) {
        ids.push(eos);
        supervised.push(true);
    }
    // Nothing comes before the first token that it could be predicted from.
    supervised[0] = false;
    Ok(((ids, supervised), joined))
}
