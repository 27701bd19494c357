//! Tokenizers across the boundary.

use std::any::Any;
use std::sync::Arc;

use abi_stable::std_types::{RSlice, RStr};
use serde::{Deserialize, Serialize};

use super::guard::{Guarded, Owner};
use super::object::{AnyThread, Imported, RawObject, RawSink, exports};
use super::record::{decode, encode, replies};
use super::table::interfaces;
use crate::{Datum, Error, Message, NamedFile, Rendered, Result, Tokenizer, Tokens, Vocabulary};

interfaces! {
    /// Text and tokens. Offsets are the start and end of each token's bytes in turn. Any thread.
    "tokenizer.text/1" TokenizerText TextFunctions {
        /// [`Tokenizer::vocabulary`].
        fn describe_vocabulary() -> Vocabulary;
        /// [`Tokenizer::encode`].
        fn encode_text(text: RStr<'_>, ids: &RawSink<'_, u32>, offsets: &RawSink<'_, usize>);
        /// [`Tokenizer::decode`].
        fn decode_tokens(tokens: RSlice<'_, u32>) -> String;
        /// [`Tokenizer::render`] of a list of [`Message`]s, or [`Tokenizer::render_prompt`]; gives the text.
        fn render_messages(
            messages: RSlice<'_, u8>, prompt: bool, ids: &RawSink<'_, u32>, offsets: &RawSink<'_, usize>,
            assistant: &RawSink<'_, bool>
        ) -> String;
        /// [`Tokenizer::files`].
        fn list_files() -> Vec<NamedFile>;
    }

    /// Conversations with what the user should know of them. Any thread.
    "tokenizer.notes/1" TokenizerNotes NoteFunctions {
        /// [`Tokenizer::render_noted`] of a list of [`Message`]s; gives the text and the notes.
        fn render_with_notes(
            messages: RSlice<'_, u8>, ids: &RawSink<'_, u32>, offsets: &RawSink<'_, usize>, assistant: &RawSink<'_, bool>
        ) -> Noted;
    }
}
replies! { Vocabulary, Vec<NamedFile>, Noted }
exports! { Arc<dyn Tokenizer>: TokenizerText, TokenizerNotes; }
// SAFETY: `Tokenizer` is `Send + Sync`.
unsafe impl AnyThread for TokenizerText {}
// SAFETY: as above.
unsafe impl AnyThread for TokenizerNotes {}

/// The text of a conversation, and what the user should know of it.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Noted {
    text: String,
    notes: Vec<String>,
}

/// Makes an object of a plain tokenizer; one that came across already is handed on as it is.
pub(super) fn export(tokenizer: Arc<dyn Tokenizer>, owner: impl FnOnce() -> Arc<Owner>) -> RawObject {
    match tokenizer.as_loaded().and_then(|any| any.downcast_ref::<Imported<TokenizerText>>()) {
        Some(loaded) => loaded.share(),
        None => RawObject::new(Guarded::new(tokenizer, owner())),
    }
}

/// Makes a plain tokenizer of an object.
pub(super) fn import(object: RawObject, name: &'static str) -> Result<Arc<dyn Tokenizer>> {
    Ok(Arc::new(Imported::<TokenizerText>::of(object, name)?))
}

/// Makes a plain tokenizer of an object that may be nothing.
pub(super) fn import_lent(object: RawObject, name: &'static str) -> Result<Option<Arc<dyn Tokenizer>>> {
    let lent = Imported::<TokenizerText>::find(&object.into_shared(), name)?;
    Ok(lent.map(|lent| Arc::new(lent) as Arc<dyn Tokenizer>))
}

fn write(tokens: &Tokens, ids: &RawSink<'_, u32>, offsets: &RawSink<'_, usize>) {
    ids.write(&tokens.ids);
    offsets.write(&tokens.offsets.iter().flat_map(|&(start, end)| [start, end]).collect::<Vec<_>>());
}

/// The tokens that a tokenizer wrote for a text of this length.
fn read(ids: Vec<u32>, offsets: &[usize], length: usize) -> Result<Tokens> {
    let (pairs, rest) = offsets.as_chunks::<2>();
    let fits = |&[start, end]: &[usize; 2]| start <= end && end <= length;
    if ids.len() != pairs.len() || !rest.is_empty() || !pairs.iter().all(fits) {
        return Err(Error::plugin(format!(
            "a text of {length} bytes has {} tokens and {} offsets, which do not fit together",
            ids.len(),
            offsets.len()
        )));
    }
    Ok(Tokens { ids, offsets: pairs.iter().map(|&[start, end]| (start, end)).collect() })
}

/// Messages, as they come across.
fn plain(messages: RSlice<'_, u8>) -> Result<Vec<Message>> {
    let turns: Vec<Datum> = decode(messages.as_slice())?;
    turns.iter().enumerate().map(|(index, turn)| turn.message(&format!("messages[{index}]"))).collect()
}

impl NoteFunctions for Arc<dyn Tokenizer> {
    fn render_with_notes(
        &self,
        messages: RSlice<'_, u8>,
        ids: &RawSink<'_, u32>,
        offsets: &RawSink<'_, usize>,
        assistant: &RawSink<'_, bool>,
    ) -> Result<Noted> {
        let (rendered, notes) = self.render_noted(&plain(messages)?)?;
        write(&rendered.tokens, ids, offsets);
        assistant.write(&rendered.assistant);
        Ok(Noted { text: rendered.text, notes })
    }
}

impl TextFunctions for Arc<dyn Tokenizer> {
    fn describe_vocabulary(&self) -> Result<Vocabulary> {
        self.vocabulary()
    }

    fn encode_text(&self, text: RStr<'_>, ids: &RawSink<'_, u32>, offsets: &RawSink<'_, usize>) -> Result<()> {
        write(&(**self).encode(text.as_str())?, ids, offsets);
        Ok(())
    }

    fn decode_tokens(&self, tokens: RSlice<'_, u32>) -> Result<String> {
        (**self).decode(tokens.as_slice())
    }

    fn render_messages(
        &self,
        messages: RSlice<'_, u8>,
        prompt: bool,
        ids: &RawSink<'_, u32>,
        offsets: &RawSink<'_, usize>,
        assistant: &RawSink<'_, bool>,
    ) -> Result<String> {
        let messages = plain(messages)?;
        let rendered = if prompt { self.render_prompt(&messages)? } else { self.render(&messages)? };
        write(&rendered.tokens, ids, offsets);
        assistant.write(&rendered.assistant);
        Ok(rendered.text)
    }

    fn list_files(&self) -> Result<Vec<NamedFile>> {
        self.files()
    }
}

/// What a tokenizer writes of a conversation.
#[derive(Default)]
struct Written {
    ids: Vec<u32>,
    offsets: Vec<usize>,
    assistant: Vec<bool>,
}

impl Written {
    /// The conversation of this text.
    fn rendered(self, text: String, name: &'static str) -> Result<Rendered> {
        let Self { ids, offsets, assistant } = self;
        let tokens = read(ids, &offsets, text.len()).map_err(|error| error.in_component(name))?;
        if assistant.len() != tokens.ids.len() {
            let (marks, tokens) = (assistant.len(), tokens.ids.len());
            return Err(Error::plugin(format!("a conversation has {tokens} tokens and {marks} marks for them"))
                .in_component(name));
        }
        Ok(Rendered { text, tokens, assistant })
    }
}

fn encoded(messages: &[Message]) -> Result<Vec<u8>> {
    encode(&messages.iter().cloned().map(Datum::from).collect::<Vec<_>>())
}

impl Imported<TokenizerText> {
    fn rendered(&self, messages: &[Message], prompt: bool) -> Result<Rendered> {
        let (mut written, messages) = (Written::default(), encoded(messages)?);
        let text = self.render_messages(
            messages.as_slice().into(),
            prompt,
            &RawSink::of(&mut written.ids),
            &RawSink::of(&mut written.offsets),
            &RawSink::of(&mut written.assistant),
        )?;
        written.rendered(text, self.name())
    }
}

impl Tokenizer for Imported<TokenizerText> {
    fn vocabulary(&self) -> Result<Vocabulary> {
        self.describe_vocabulary()
    }

    fn encode(&self, text: &str) -> Result<Tokens> {
        let (mut ids, mut offsets) = (Vec::new(), Vec::new());
        self.encode_text(text.into(), &RawSink::of(&mut ids), &RawSink::of(&mut offsets))?;
        read(ids, &offsets, text.len()).map_err(|error| error.in_component(self.name()))
    }

    fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.decode_tokens(tokens.into())
    }

    fn render(&self, messages: &[Message]) -> Result<Rendered> {
        self.rendered(messages, false)
    }

    fn render_noted(&self, messages: &[Message]) -> Result<(Rendered, Vec<String>)> {
        let Some(noting) = self.beside::<TokenizerNotes>()? else { return Ok((self.render(messages)?, Vec::new())) };
        let (mut written, messages) = (Written::default(), encoded(messages)?);
        let Noted { text, notes } = noting.render_with_notes(
            messages.as_slice().into(),
            &RawSink::of(&mut written.ids),
            &RawSink::of(&mut written.offsets),
            &RawSink::of(&mut written.assistant),
        )?;
        Ok((written.rendered(text, self.name())?, notes))
    }

    fn render_prompt(&self, messages: &[Message]) -> Result<Rendered> {
        self.rendered(messages, true)
    }

    fn files(&self) -> Result<Vec<NamedFile>> {
        self.list_files()
    }

    fn as_loaded(&self) -> Option<&dyn Any> {
        Some(self)
    }
}
