//! The text of each single token.

use std::collections::HashMap;

use mdt_plugin_api::{Result, SharedTokenizer};

/// The character that decoding gives for bytes that are no whole character.
const INCOMPLETE: char = '\u{FFFD}';

/// Decodes tokens one by one.
///
/// A token alone does not always have a text: it may be part of a character, and a decoder drops the space before the
/// first word. So each piece is what a token adds to the text of the few tokens before it.
pub struct Pieces {
    tokenizer: SharedTokenizer,
    special: HashMap<u32, String>,
}

impl Pieces {
    /// The pieces that this tokenizer gives.
    pub fn new(tokenizer: SharedTokenizer) -> Self {
        let special = tokenizer.vocabulary().special.iter().cloned().collect();
        Self { tokenizer, special }
    }

    /// The text of each token. Together they are the text of all.
    ///
    /// The piece of a token that ends inside a character is empty, and the one that completes it has the character. A
    /// token that has no text and no name is shown by its id: `<token 7>`.
    pub fn of(&self, tokens: &[u32]) -> Result<Vec<String>> {
        let mut pieces: Vec<String> = Vec::with_capacity(tokens.len());
        // Tokens from `context` on are decoded with each new one, those from `shown` on have no piece yet.
        let (mut context, mut shown) = (0, 0);
        for (place, &token) in tokens.iter().enumerate() {
            if let Some(name) = self.special.get(&token) {
                if shown < place {
                    pieces[place - 1] = self.added(tokens, context, shown, place)?;
                }
                pieces.push(name.clone());
                shown = place + 1;
                continue;
            }
            let piece = self.added(tokens, context, shown, place + 1)?;
            if piece.ends_with(INCOMPLETE) && place + 1 < tokens.len() {
                pieces.push(String::new());
                continue;
            }
            pieces.push(if piece.is_empty() { format!("<token {token}>") } else { piece });
            context = shown;
            shown = place + 1;
        }
        Ok(pieces)
    }

    /// The text that the tokens from `shown` to `end` add to the text of those from `context` to `shown`.
    fn added(&self, tokens: &[u32], context: usize, shown: usize, end: usize) -> Result<String> {
        let before = self.tokenizer.decode(&tokens[context..shown])?;
        let after = self.tokenizer.decode(&tokens[context..end])?;
        match after.strip_prefix(before.as_str()) {
            Some(added) => Ok(added.to_owned()),
            // A decoder that changes earlier text, such as one that joins words to punctuation.
            None => self.tokenizer.decode(&tokens[shown..end]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mdt_plugin_api::{Error, Message, NamedFile, Rendered, Tokenizer, Tokens, Vocabulary};
    use proptest::prelude::*;
    use std::sync::Arc;

    /// Tokens below 256 are bytes, as in byte-level and byte-fallback tokenizers; 300 is special; 301 is nothing. The
    /// first space of a text is dropped, as SentencePiece does.
    struct Bytes;

    impl Tokenizer for Bytes {
        fn vocabulary(&self) -> Result<Vocabulary> {
            Ok(Vocabulary { special: vec![(300, "<s>".to_owned())], ..Vocabulary::default() })
        }
        fn encode(&self, _: &str) -> Result<Tokens> {
            Err(Error::other("not needed"))
        }
        fn decode(&self, tokens: &[u32]) -> Result<String> {
            let bytes: Vec<u8> = tokens.iter().filter_map(|&token| u8::try_from(token).ok()).collect();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            Ok(text.strip_prefix(' ').map_or(text.clone(), str::to_owned))
        }
        fn render(&self, _: &[Message]) -> Result<Rendered> {
            Err(Error::other("not needed"))
        }
        fn render_prompt(&self, _: &[Message]) -> Result<Rendered> {
            Err(Error::other("not needed"))
        }
        fn files(&self) -> Result<Vec<NamedFile>> {
            Ok(Vec::new())
        }
    }

    fn pieces(tokens: &[u32]) -> Vec<String> {
        Pieces::new(SharedTokenizer::new(Arc::new(Bytes)).unwrap()).of(tokens).unwrap()
    }

    #[test]
    fn a_character_of_several_tokens_stands_at_the_last_of_them() {
        assert_eq!(pieces(&[97, 0xE2, 0x82, 0xAC, 98]), ["a", "", "", "€", "b"]);
    }

    #[test]
    fn a_row_that_is_cut_inside_a_character_says_so() {
        assert_eq!(pieces(&[97, 0xE2, 0x82]), ["a", "", "\u{FFFD}"]);
        assert_eq!(pieces(&[0xE2, 300, 98]), ["\u{FFFD}", "<s>", "b"]);
    }

    #[test]
    fn spaces_stay_and_tokens_without_text_are_named() {
        assert_eq!(
            pieces(&[300, 97, 32, 98, 300, 32, 99, 301]),
            ["<s>", "a", " ", "b", "<s>", " ", "c", "<token 301>"]
        );
    }

    proptest! {
        #[test]
        fn pieces_together_are_the_text(text in "[ a-zäöü€𝄞\n]{0,40}") {
            let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
            let pieces = pieces(&tokens);
            prop_assert_eq!(pieces.len(), tokens.len());
            let shown = pieces.concat().replace("<token 32>", "");
            prop_assert_eq!(shown, text.strip_prefix(' ').unwrap_or(&text));
        }
    }
}
