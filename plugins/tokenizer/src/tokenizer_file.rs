//! `tokenizer.json`: text to tokens with their positions in the text, and back.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mdt_plugin_api::{Error, Result, Tokens, Vocabulary};
use tokenizers::{Encoding, PostProcessorWrapper, Token};

use crate::directory::ModelDirectory;
use crate::time_and_memory::{Part, limited, panic_text};

/// A loaded `tokenizer.json`. Several threads may use it at once.
pub struct TokenizerFile {
    file: PathBuf,
    inner: Arc<tokenizers::Tokenizer>,
    prefix: Vec<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
    special: HashSet<u32>,
    size: usize,
}

impl TokenizerFile {
    /// Loads `tokenizer.json`, and the special tokens that the files beside it name.
    ///
    /// # Errors
    /// Files that are missing or cannot be used, and special tokens that the tokenizer does not have.
    pub fn load(directory: &ModelDirectory) -> Result<Self> {
        let (file, text) = directory.tokenizer()?;
        let added = directory.added_tokens();
        let (inner, prefix) = guarded(&file, "the tokenizer cannot be used", text.len(), move || {
            let mut inner: tokenizers::Tokenizer = text.parse()?;
            // A tokenizer.json may ask for both, for some other use than this.
            inner.with_padding(None).with_truncation(None)?;
            // As transformers does with tokens that only tokenizer_config.json has.
            for (_, token) in added {
                if inner.token_to_id(&token.content).is_none() {
                    inner.add_tokens(&[token]);
                }
            }
            let prefix = prefix_of(&inner)?;
            // What it puts in front is known now. Left in place it would also shorten the places of tokens that begin
            // with a space, and masks are made from those.
            let processor = inner.get_post_processor().is_some();
            inner.with_post_processor(None::<PostProcessorWrapper>);
            Ok((inner, processor.then_some(prefix)))
        })?;

        let id_of = |name: &str| {
            directory.special_token(name).map(|token| {
                inner.token_to_id(token).ok_or_else(|| {
                    Error::input(format!("{name} {token:?} is not a token of the tokenizer"))
                        .with("file", file.display())
                        .help(format!("correct {name} in tokenizer_config.json, or add the token to tokenizer.json"))
                })
            })
        };
        let bos = id_of("bos_token").transpose()?;
        let known = |id: &u32| inner.id_to_token(*id).is_some();
        let eos = id_of("eos_token").transpose()?.or_else(|| directory.stop_ids().into_iter().find(known));

        let prefix =
            prefix.unwrap_or_else(|| if directory.adds_bos() { bos.into_iter().collect() } else { Vec::new() });
        let added = inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id).chain(eos).collect();
        let size = inner.get_vocab(true).into_values().max().map_or(0, |largest| largest as usize + 1);
        Ok(Self { file, inner: Arc::new(inner), prefix, bos, eos, special, size })
    }

    /// All that is known of its tokens without a chat template.
    pub fn vocabulary(&self) -> Vocabulary {
        let added = self.inner.get_added_tokens_decoder();
        let special = added.into_iter().filter(|(_, token)| token.special).map(|(id, token)| (id, token.content));
        let mut special: Vec<_> = special.collect();
        special.sort_unstable();
        let Self { bos, eos, size, .. } = *self;
        Vocabulary { size, prefix: self.prefix.clone(), bos, eos, special, ..Vocabulary::default() }
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The text of the token that ends a text.
    pub fn eos_text(&self) -> Option<String> {
        self.inner.id_to_token(self.eos?)
    }

    /// Whether a token is special: a marker, not text.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// The tokens of the text alone, without bos or eos. Special tokens that are written in the text are recognised.
    pub fn tokens(&self, text: &str) -> Result<Tokens> {
        let (inner, owned) = (Arc::clone(&self.inner), text.to_owned());
        let encode = move || inner.encode(owned, false);
        let encoding = guarded(&self.file, "the text cannot be tokenized", text.len(), encode)?;
        Ok(Tokens { ids: encoding.get_ids().to_vec(), offsets: encoding.get_offsets().to_vec() })
    }

    /// The error of a row whose tokenization takes too long or too much memory.
    pub fn exceed(&self, reason: &str) -> Error {
        failure(&self.file, "the text cannot be tokenized", reason)
    }

    /// Tokens as text, without special tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let (inner, owned) = (Arc::clone(&self.inner), ids.to_vec());
        guarded(&self.file, "the tokens cannot be decoded", ids.len(), move || inner.decode(&owned, true))
    }
}

/// Calls the tokenizers library on an input of this size in bytes. A panic in it becomes an error of the tokenizer's file:
/// it panics if a pattern backtracks too often.
fn guarded<T: Send + 'static>(
    file: &Path,
    message: &str,
    size: usize,
    call: impl FnOnce() -> tokenizers::Result<T> + Send + 'static,
) -> Result<T> {
    let result = match limited(Part::Tokenizer, size, call) {
        Ok(Ok(result)) => result.map_err(|error| error.to_string()),
        Ok(Err(panic)) => Err(panic_text(&*panic).to_owned()),
        Err(given_up) => Err(given_up.reason),
    };
    result.map_err(|reason| failure(file, message, &reason))
}

fn failure(file: &Path, message: &str, reason: &str) -> Error {
    Error::input(message).with("file", file.display()).caused_by(reason).help(
        "if the file is damaged or a pattern in it backtracks without end, take the tokenizer.json of the model's makers",
    )
}

/// The tokens that the tokenizer puts before a text.
///
/// The post-processor of `tokenizer.json` decides, as in transformers 5; `add_bos_token` matters only without one.
fn prefix_of(tokenizer: &tokenizers::Tokenizer) -> tokenizers::Result<Vec<u32>> {
    let text = Encoding::from_tokens(vec![Token::new(u32::MAX, String::new(), (0, 0))], 0);
    let framed = tokenizer.post_process(text, None, true)?;
    Ok(framed.get_ids().iter().copied().take_while(|&id| id != u32::MAX).collect())
}
