//! A tokenizer whose tokens are bytes.

use mdt_plugin_api::NamedFile;
use mdt_plugin_api::prelude::*;

use super::faults::Faults;
use super::recorder::Recorder;
use super::source::Source;

/// The tokenizer.
pub struct Bytes(Faults);

impl Component for Bytes {
    type Config = Faults;

    fn create(faults: Faults, setup: &Setup) -> Result<Self> {
        faults.at("create")?;
        setup.services.log(LogLevel::Info, &format!("a tokenizer of {:?}", setup.model_path));
        Ok(Self(faults))
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        self.0.panic_at("drop");
    }
}

fn tokens(text: &str) -> Tokens {
    let ids: Vec<u32> = text.bytes().map(u32::from).collect();
    Tokens { offsets: (0..ids.len()).map(|at| (at, at + 1)).collect(), ids }
}

fn rendered(messages: &[Message]) -> Rendered {
    let (mut text, mut assistant) = (String::new(), Vec::new());
    for message in messages {
        text += &message.content;
        assistant.resize(text.len(), message.role == "assistant");
    }
    Rendered { tokens: tokens(&text), text, assistant }
}

impl Tokenizer for Bytes {
    fn vocabulary(&self) -> Result<Vocabulary> {
        self.0.at("vocabulary")?;
        let (prefix, stop, special) = (vec![1], vec![2, 3], vec![(1, "<s>".to_owned())]);
        Ok(Vocabulary { size: 256, prefix, bos: Some(1), eos: Some(2), stop, special, renders_messages: true })
    }

    fn encode(&self, text: &str) -> Result<Tokens> {
        self.0.at("encode")?;
        Ok(tokens(text))
    }

    fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.0.at("decode")?;
        let bytes: Vec<u8> = tokens.iter().filter_map(|&token| u8::try_from(token).ok()).collect();
        String::from_utf8(bytes).map_err(|error| Error::input("no text").caused_by(error))
    }

    fn render(&self, messages: &[Message]) -> Result<Rendered> {
        self.0.at("render")?;
        Ok(rendered(messages))
    }

    fn render_noted(&self, messages: &[Message]) -> Result<(Rendered, Vec<String>)> {
        self.0.at("render_noted")?;
        Ok((rendered(messages), messages.iter().map(|message| format!("{} ñ\0", message.role)).collect()))
    }

    fn render_prompt(&self, messages: &[Message]) -> Result<Rendered> {
        self.0.at("render_prompt")?;
        Ok(rendered(&[messages, &[Message::new("assistant", ">")]].concat()))
    }

    fn files(&self) -> Result<Vec<NamedFile>> {
        self.0.at("files")?;
        let file = |name: &str, text: Option<&str>| NamedFile { name: name.to_owned(), text: text.map(str::to_owned) };
        Ok(vec![file("tokenizer.json", None), file("templates/chat.jinja", Some("{{ messages }}"))])
    }
}

/// The methods that may fail.
pub const METHODS: &[&str] = &["vocabulary", "encode", "decode", "render", "render_noted", "render_prompt", "files"];

/// Those of `tokenizer.notes/1`.
pub const NOTES: &[&str] = &["render_noted"];

/// Calls each method.
pub fn exercise(recorder: &mut Recorder, source: &Source) {
    let (config, setup) = (recorder.config(), recorder.setup());
    let made = recorder.make("create", |_| String::new(), || source.tokenizer(&config, &setup));
    let Some(tokenizer) = made else { return };
    recorder.call_shared("vocabulary", || tokenizer.vocabulary());
    for text in ["añ\0", ""] {
        recorder.call_shared("encode", || tokenizer.encode(text));
    }
    for tokens in [&[0x61, 0xc3, 0xb1][..], &[0xff, 70_000]] {
        recorder.call_shared("decode", || tokenizer.decode(tokens));
    }
    let messages = [Message::new("user", "2 + 2"), Message::new("assistant", "4")];
    recorder.call_shared("render", || tokenizer.render(&messages));
    recorder.call_shared("render_noted", || tokenizer.render_noted(&messages));
    recorder.call_shared("render_prompt", || tokenizer.render_prompt(&messages[..1]));
    recorder.call_shared("files", || tokenizer.files());
    recorder.drop("drop", tokenizer);
}
