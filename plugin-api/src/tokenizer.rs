//! What a tokenizer plugin provides: text as tokens and back, conversations as text, and whose words they are.

use std::any::Any;
use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Content, Error, Example, Message, Result};

/// Text as tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Token ids.
    pub ids: Vec<u32>,
    /// For each token, the start and end of its bytes in the text.
    pub offsets: Vec<(usize, usize)>,
}

impl Tokens {
    /// For each token, whether any of its text lies inside one of the spans, which are ordered and disjoint ranges of bytes.
    ///
    /// So a token that holds the end of a prompt and the start of its answer is inside the answer, as in transformers: it
    /// is the only token from which a model can learn how the answer begins. Each token of a character that is split into
    /// several covers the whole character.
    pub fn inside(&self, spans: &[Range<usize>]) -> Vec<bool> {
        let is_inside = |&(start, end): &(usize, usize)| {
            let next = spans.partition_point(|span| span.end <= start);
            spans.get(next).is_some_and(|span| span.start < end.max(start + 1))
        };
        self.offsets.iter().map(is_inside).collect()
    }
}

/// A conversation as text and tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The text that the chat template makes, special tokens included.
    pub text: String,
    /// Its tokens, and nothing added.
    pub tokens: Tokens,
    /// For each token, whether the assistant says it: its answers, each with the token that ends it.
    pub assistant: Vec<bool>,
}

/// A prompt and its completion as tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Completed {
    /// Token ids, from the beginning-of-sequence token to the end-of-sequence token.
    pub tokens: Vec<u32>,
    /// For each token, whether it belongs to the completion, the token that ends it included. The first one never does:
    /// nothing comes before it that it could be predicted from.
    pub completion: Vec<bool>,
    /// Whether one token holds both the end of the prompt and the start of the completion.
    pub joined: bool,
}

/// The tokens of a tokenizer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vocabulary {
    /// The largest token id plus one, added tokens included.
    pub size: usize,
    /// What the tokenizer puts before a text: usually one beginning-of-sequence token.
    pub prefix: Vec<u32>,
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// The token that ends a text.
    pub eos: Option<u32>,
    /// The tokens that end an answer.
    pub stop: Vec<u32>,
    /// The tokens that are markers and not text, with their names.
    pub special: Vec<(u32, String)>,
    /// Whether there is a chat template, so that conversations can be rendered.
    pub renders_messages: bool,
}

impl Vocabulary {
    /// What the tokenizer puts before a text with these tokens; nothing if the text begins with that token itself.
    pub fn prefix_of(&self, tokens: &[u32]) -> &[u32] {
        if self.bos.is_some() && tokens.first() == self.bos.as_ref() { &[] } else { &self.prefix }
    }

    /// The token that ends a text, for training.
    ///
    /// # Errors
    /// There is none: a model that never sees an end would never stop.
    pub fn require_eos(&self) -> Result<u32> {
        self.eos.ok_or_else(|| {
            Error::input("the tokenizer has no end-of-sequence token, so that no answer would ever end")
                .help("name one as \"eos_token\" in the model's tokenizer_config.json")
        })
    }
}

/// A file of a model's directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedFile {
    /// Where it is in the directory, with `/` between the parts: `tokenizer.json`.
    pub name: String,
    /// What it says, where that is not what the file of the present directory says.
    #[serde(default)]
    pub text: Option<String>,
}

/// A tokenizer. The host opens one for a job and lends it to the trainer, to previews and to generation.
///
/// Any thread, several at once. The same text always has the same tokens: not even the date may change them.
pub trait Tokenizer: Send + Sync {
    /// Its tokens.
    fn vocabulary(&self) -> Result<Vocabulary>;

    /// The tokens of a text alone, without a beginning or an end of sequence. Special tokens that have a
    /// text are recognised in it.
    fn encode(&self, text: &str) -> Result<Tokens>;

    /// Tokens as text, without special tokens.
    fn decode(&self, tokens: &[u32]) -> Result<String>;

    /// A conversation, as the chat template renders it. The answers of a message whose `weight` is 0 are not marked as the
    /// assistant's; templates never see that key.
    ///
    /// # Errors
    /// There is no chat template, or it cannot render these messages; it is not clear which tokens are the assistant's.
    fn render(&self, messages: &[Message]) -> Result<Rendered>;

    /// The same, and what the user should know of how it is rendered, in sentences that many rows may share.
    ///
    /// # Errors
    /// As for [`Tokenizer::render`].
    fn render_noted(&self, messages: &[Message]) -> Result<(Rendered, Vec<String>)> {
        Ok((self.render(messages)?, Vec::new()))
    }

    /// A conversation without its last answer, up to where the assistant begins to speak.
    ///
    /// # Errors
    /// As for [`Tokenizer::render`].
    fn render_prompt(&self, messages: &[Message]) -> Result<Rendered>;

    /// The files by which a directory has this tokenizer, templates included. The host writes them beside the weights that
    /// it has trained; those without a text are copied from the model that training began with. They also tell whether
    /// rows have the same tokens as before. A tokenizer that is not made of files has none; whoever opens the trained model must
    /// name it then (`tokenizer.use`).
    fn files(&self) -> Result<Vec<NamedFile>>;

    /// The loaded object behind this one, so that it is passed on and not wrapped again.
    #[doc(hidden)]
    fn as_loaded(&self) -> Option<&dyn Any> {
        None
    }
}

/// The tokenizer of a job, as the host lends it: a [`Tokenizer`] whose vocabulary is at hand.
#[derive(Clone)]
pub struct SharedTokenizer {
    tokenizer: Arc<dyn Tokenizer>,
    vocabulary: Arc<Vocabulary>,
}

impl SharedTokenizer {
    /// Shares a tokenizer.
    pub fn new(tokenizer: Arc<dyn Tokenizer>) -> Result<Self> {
        let vocabulary = Arc::new(tokenizer.vocabulary()?);
        Ok(Self { tokenizer, vocabulary })
    }

    /// The tokenizer behind it.
    pub(crate) fn shared(&self) -> Arc<dyn Tokenizer> {
        Arc::clone(&self.tokenizer)
    }

    /// Its tokens.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The tokens of a text, with those that the tokenizer puts before it.
    pub fn encode_from_start(&self, text: &str) -> Result<Vec<u32>> {
        let ids = self.encode(text)?.ids;
        Ok([self.vocabulary.prefix_of(&ids), &ids].concat())
    }

    /// The tokens of a row's prompt, for the model to continue: a conversation without its last answer, or a text.
    pub fn encode_prompt(&self, example: &Example) -> Result<Vec<u32>> {
        let tokens = Content::of(example).and_then(|content| match content {
            Content::Messages(messages) => Ok(self.render_prompt(&messages)?.tokens.ids),
            Content::PromptCompletion { prompt: text, .. } | Content::Text(text) => self.encode_from_start(&text),
        });
        tokens.map_err(|error| error.with("row", example.row))
    }

    /// `bos prompt completion eos`. Plain text is a completion without a prompt.
    ///
    /// The two are tokenized as one text, as in pre-training. A completion that is tokenized alone would get the space that
    /// SentencePiece puts before every text.
    ///
    /// # Errors
    /// A text that cannot be tokenized; a tokenizer without an end-of-sequence token.
    pub fn complete(&self, prompt: &str, completion: &str) -> Result<Completed> {
        let seam = prompt.len();
        let Tokens { ids, offsets } = self.encode(&format!("{prompt}{completion}"))?;
        let joined = offsets.iter().any(|&(start, end)| start < seam && seam < end);
        let prefix = self.vocabulary.prefix_of(&ids);
        let mut tokens = [prefix, &ids].concat();
        let mut inside = vec![false; prefix.len()];
        inside.extend(Tokens { ids, offsets }.inside(std::slice::from_ref(&(seam..seam + completion.len()))));
        let eos = self.vocabulary.require_eos()?;
        // A completion may bring its own.
        if !(inside.last() == Some(&true) && tokens.last() == Some(&eos)) {
            tokens.push(eos);
            inside.push(true);
        }
        inside[0] = false;
        Ok(Completed { tokens, completion: inside, joined })
    }
}

impl Deref for SharedTokenizer {
    type Target = dyn Tokenizer;

    fn deref(&self) -> &Self::Target {
        &*self.tokenizer
    }
}

impl fmt::Debug for SharedTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedTokenizer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(offsets: &[(usize, usize)]) -> Tokens {
        Tokens { ids: vec![0; offsets.len()], offsets: offsets.to_vec() }
    }

    #[test]
    fn a_token_is_inside_a_span_if_some_of_its_text_is() {
        let tokens = tokens(&[(0, 2), (2, 5), (5, 6), (6, 9), (9, 9), (9, 12)]);
        //                           straddles 4 ┘     └ straddles 8
        assert_eq!(tokens.inside(&[4..8, 20..30]), [false, true, true, true, false, false]);
        assert_eq!(tokens.inside(&[0..1, 9..10]), [true, false, false, false, true, true]);
        assert_eq!(tokens.inside(&[]), [false; 6]);
    }

    #[test]
    fn inside_agrees_with_looking_at_every_span() {
        // All sets of spans with edges on a line of ten bytes, and tokens of several lengths.
        let offsets: Vec<_> = (0..10).map(|start| (start, start + 1 + start % 4)).collect();
        for edges in 0_u32..1 << 10 {
            let edges: Vec<usize> = (0..10).filter(|bit| edges >> bit & 1 == 1).collect();
            let spans: Vec<_> = edges.chunks_exact(2).map(|pair| pair[0]..pair[1]).collect();
            let touches =
                |&(start, end): &(usize, usize)| (start..end).any(|byte| spans.iter().any(|s| s.contains(&byte)));
            let expected: Vec<bool> = offsets.iter().map(touches).collect();
            assert_eq!(tokens(&offsets).inside(&spans), expected);
        }
    }
}
