//! The text of an answer while its tokens come: never half a character, and never the beginning of what ends it.

use mdt_plugin_api::{Result, SharedTokenizer};

use super::stop::StopTexts;

/// What a decoder writes for bytes that are no character, or not yet.
const INCOMPLETE: char = char::REPLACEMENT_CHARACTER;

/// The text of an answer so far.
pub struct AnswerText {
    tokenizer: SharedTokenizer,
    stops: StopTexts,
    tokens: Vec<u32>,
    /// The text of the tokens before `read` is in `text`; those from `context` on are decoded with the ones that follow,
    /// because what a token is as text may depend on the one before it.
    context: usize,
    read: usize,
    text: String,
    /// How many bytes of it were given out.
    given: usize,
    is_stopped: bool,
}

impl AnswerText {
    /// An answer without tokens, which these texts end.
    pub fn new(tokenizer: &SharedTokenizer, stops: StopTexts) -> Self {
        let (tokenizer, tokens, text) = (tokenizer.clone(), Vec::new(), String::new());
        Self { tokenizer, stops, tokens, context: 0, read: 0, text, given: 0, is_stopped: false }
    }

    /// Adds a token; returns the text that is certain now.
    pub fn push(&mut self, token: u32) -> Result<&str> {
        self.tokens.push(token);
        let new = self.undecided()?;
        if new.is_empty() || new.ends_with(INCOMPLETE) {
            return Ok("");
        }
        self.text += &new;
        (self.context, self.read) = (self.read, self.tokens.len());
        Ok(self.give(false))
    }

    /// The rest of the text, where no more tokens come.
    pub fn finish(&mut self) -> Result<&str> {
        if !self.is_stopped {
            let new = self.undecided()?;
            self.text += &new;
            self.read = self.tokens.len();
        }
        Ok(self.give(true))
    }

    /// Whether one of the texts has ended it.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    /// Its tokens, those of a text that ended it included.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// All of its text so far, without what ends it.
    pub fn into_text(self) -> String {
        self.text
    }

    /// The text of the tokens from `read` on.
    fn undecided(&self) -> Result<String> {
        let before = self.tokenizer.decode(&self.tokens[self.context..self.read])?;
        let after = self.tokenizer.decode(&self.tokens[self.context..])?;
        // Bytes that turn out to be no character change the text before them too; what was given out stays.
        let changed = || after.chars().skip(before.chars().count()).collect();
        Ok(after.strip_prefix(&before).map_or_else(changed, str::to_owned))
    }

    /// The text that was not given out yet: without what ends the answer and, unless it is at its end, without what may
    /// become that.
    fn give(&mut self, at_end: bool) -> &str {
        if let Some(found) = self.stops.find(&self.text[self.given..]).filter(|_| !self.is_stopped) {
            self.text.truncate(self.given + found);
            self.is_stopped = true;
        }
        let held = if at_end || self.is_stopped { 0 } else { self.stops.begun(&self.text[self.given..]) };
        let start = std::mem::replace(&mut self.given, self.text.len() - held);
        &self.text[start..self.given]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mdt_plugin_api::{Message, NamedFile, Rendered, Tokenizer, Tokens, Vocabulary};
    use proptest::prelude::*;

    use super::*;

    /// A tokenizer whose tokens are pieces of bytes, and nothing from 200 on.
    struct Pieces(Vec<Vec<u8>>);

    impl Tokenizer for Pieces {
        fn vocabulary(&self) -> Result<Vocabulary> {
            Ok(Vocabulary::default())
        }

        fn encode(&self, _: &str) -> Result<Tokens> {
            Ok(Tokens::default())
        }

        fn decode(&self, tokens: &[u32]) -> Result<String> {
            let bytes: Vec<u8> =
                tokens.iter().flat_map(|&token| self.0.get(token as usize).cloned().unwrap_or_default()).collect();
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }

        fn render(&self, _: &[Message]) -> Result<Rendered> {
            Ok(Rendered::default())
        }

        fn render_prompt(&self, _: &[Message]) -> Result<Rendered> {
            Ok(Rendered::default())
        }

        fn files(&self) -> Result<Vec<NamedFile>> {
            Ok(Vec::new())
        }
    }

    /// The parts of a text as tokens of so many bytes, and its whole.
    fn given(text: &str, lengths: &[usize], stops: &[&str]) -> (Vec<String>, String, bool) {
        let (mut bytes, mut pieces) = (text.as_bytes(), Vec::new());
        for &length in lengths.iter().cycle() {
            if bytes.is_empty() {
                break;
            }
            let (piece, rest) = bytes.split_at(length.min(bytes.len()));
            pieces.push(piece.to_vec());
            bytes = rest;
        }
        let count = pieces.len() as u32;
        let tokenizer = SharedTokenizer::new(Arc::new(Pieces(pieces))).unwrap();
        let stops = StopTexts::new(&stops.iter().map(|&stop| stop.to_owned()).collect::<Vec<_>>());
        let mut answer = AnswerText::new(&tokenizer, stops);
        let mut parts = Vec::new();
        for token in 0..count {
            parts.push(answer.push(token).unwrap().to_owned());
            if answer.is_stopped() {
                break;
            }
        }
        parts.push(answer.finish().unwrap().to_owned());
        let is_stopped = answer.is_stopped();
        (parts, answer.into_text(), is_stopped)
    }

    #[test]
    fn a_character_of_several_tokens_is_given_out_when_it_is_whole() {
        let (parts, text, _) = given("a€𝄞b", &[1], &[]);
        assert_eq!(parts, ["a", "", "", "€", "", "", "", "𝄞", "b", ""]);
        assert_eq!(text, "a€𝄞b");
        // The answer ends within it.
        let tokenizer = SharedTokenizer::new(Arc::new(Pieces(vec![vec![b'a'], vec![0xE2]]))).unwrap();
        let mut answer = AnswerText::new(&tokenizer, StopTexts::default());
        assert_eq!(answer.push(0).unwrap(), "a");
        assert_eq!(answer.push(1).unwrap(), "");
        assert_eq!(answer.finish().unwrap(), "\u{FFFD}");
    }

    #[test]
    fn a_stop_text_over_the_borders_of_tokens_ends_an_answer_and_none_of_it_is_given_out() {
        for lengths in [&[1][..], &[2], &[3], &[1, 4], &[50]] {
            let (parts, text, is_stopped) = given("one\n\ntwo END three", lengths, &["END", "\n\n\n"]);
            assert_eq!(
                (parts.concat().as_str(), text.as_str(), is_stopped),
                ("one\n\ntwo ", "one\n\ntwo ", true),
                "{lengths:?}"
            );
        }
        let (parts, text, is_stopped) = given("one EN", &[1], &["END"]);
        assert_eq!((parts.concat().as_str(), text.as_str(), is_stopped), ("one EN", "one EN", false));
        assert_eq!(parts.last().unwrap(), "EN", "what might have become a stop text is held until the end");
    }

    proptest! {
        #[test]
        fn the_parts_are_the_text_up_to_the_first_stop_text(
            text in "[ab€𝄞 ]{0,40}", lengths in prop::collection::vec(1usize..5, 1..6), stop in "[ab€]{1,3}",
        ) {
            let (parts, whole, is_stopped) = given(&text, &lengths, &[&stop]);
            let expected = text.split(&stop).next().unwrap();
            prop_assert_eq!(&parts.concat(), expected);
            prop_assert_eq!(&whole, expected);
            prop_assert_eq!(is_stopped, text.contains(&stop));
        }
    }
}
