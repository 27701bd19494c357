//! Trainers with their tokenizers, over the repository's fixtures and over directories made for one test.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use libloading::os::unix::Library;
use mdt_plugin_api::abi::{self, LoadedComponent, across};
use mdt_plugin_api::prelude::*;
use mdt_plugin_api::register::TrainerComponent;
use mdt_sft::Sft;
use serde_json::{Value, json};
use tempfile::TempDir;

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

pub fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).expect("readable")).expect("JSON")
}

pub fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("readable");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

pub fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("a list").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

pub fn ones(mask: &[bool]) -> Vec<u32> {
    mask.iter().map(|&trained| u32::from(trained)).collect()
}

/// The keys of the tokenizer; those that are not set have their defaults.
#[derive(Clone, Default)]
pub struct Config {
    pub chat_template: Option<String>,
    pub training_template: Option<String>,
    pub chat_template_kwargs: BTreeMap<String, Value>,
    pub template_date: Option<String>,
}

/// The component `huggingface` of the built plugin: two plugins cannot be linked into one program.
fn huggingface() -> &'static LoadedComponent {
    static COMPONENT: OnceLock<LoadedComponent> = OnceLock::new();
    COMPONENT.get_or_init(|| {
        // SAFETY: the library is this workspace's own; loading it runs nothing else.
        let library = unsafe { Library::new(mdt_tests::library("mdt_tokenizer")) }.expect("the plugin was built");
        // SAFETY: only the address is taken.
        let entry = unsafe { library.get::<*const ()>(abi::ENTRY_SYMBOL.as_bytes()) }.expect("an entry").as_raw_ptr();
        std::mem::forget(library);
        // SAFETY: it is the entry of a plugin, whose library was just leaked.
        let components = unsafe { abi::load(entry.cast_const().cast()) }.expect("a plugin of this boundary");
        components.into_iter().next().expect("a component")
    })
}

/// A tokenizer and the trainer that borrows it, as a host gets them.
pub struct Pair {
    tokenizer: SharedTokenizer,
    trainer: TrainerComponent,
}

impl Pair {
    pub fn encode(&self, example: &Example) -> Result<Sequence> {
        Ok(self.trainer.encode(example)?.remove(0).sequences.remove(0))
    }

    /// All sequences of a row.
    pub fn sequences(&self, example: &Example) -> Result<Vec<Sequence>> {
        Ok(self.trainer.encode(example)?.into_iter().map(|mut item| item.sequences.remove(0)).collect())
    }

    /// What the user should know of a row: the sentences of all its sequences.
    pub fn notes(&self, example: &Example) -> Result<Vec<String>> {
        Ok(self.trainer.encode(example)?.into_iter().flat_map(|item| item.notes).collect())
    }

    pub fn collate(&self, rows: &[&Sequence]) -> Result<HostBatch> {
        let item = |row: &&Sequence| Item { sequences: vec![(*row).clone()], ..Item::default() };
        let items: Vec<Item> = rows.iter().map(item).collect();
        self.trainer.collate(&BatchRows::new(&items.iter().collect::<Vec<_>>(), &vec![1; items.len()])?)
    }

    pub fn vocabulary(&self) -> &Vocabulary {
        self.tokenizer.vocabulary()
    }

    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.tokenizer.decode(tokens)
    }

    pub fn encode_from_start(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer.encode_from_start(text)
    }

    pub fn encode_prompt(&self, example: &Example) -> Result<Vec<u32>> {
        self.tokenizer.encode_prompt(example)
    }
}

pub fn create(directory: &Path, config: Config) -> Result<Pair> {
    create_sft(directory, config, mdt_sft::Config::default())
}

/// The same with keys of the trainer.
pub fn create_sft(directory: &Path, config: Config, sft: mdt_sft::Config) -> Result<Pair> {
    let Config { chat_template, training_template, chat_template_kwargs, template_date } = config;
    let mut config = json!({ "chat_template_kwargs": chat_template_kwargs });
    let keys =
        [("chat_template", chat_template), ("training_template", training_template), ("template_date", template_date)];
    for (key, value) in keys.into_iter().filter_map(|(key, value)| Some((key, value?))) {
        config[key] = json!(value);
    }
    let setup = Setup { model_path: Some(directory.to_owned()), model_config: json!({}), ..Setup::default() };
    let tokenizer = SharedTokenizer::new(huggingface().tokenizer(&config, &setup)?)?;
    let setup = Setup { tokenizer: Some(tokenizer.clone()), ..setup };
    let trainer = TrainerComponent::new(Arc::new(Sft::create(sft, &setup)?));
    let trainer = across::trainer(trainer)?;
    Ok(Pair { tokenizer, trainer })
}

pub fn trainer(directory: &Path, config: Config) -> Pair {
    create(directory, config).expect("the directory has all that it needs")
}

/// A copy of the `chatml` or another family's tokenizer directory, with these files put over it.
pub fn directory(family: &str, files: &[(&str, &str)]) -> TempDir {
    let copy = tempfile::tempdir().expect("a temporary directory");
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        let original = fixtures().join("chat").join(family).join(name);
        if original.exists() {
            fs::copy(original, copy.path().join(name)).expect("copied");
        }
    }
    for (name, text) in files {
        fs::write(copy.path().join(name), text).expect("written");
    }
    copy
}

pub fn with_template(family: &str, template: &str) -> Pair {
    let config = Config { chat_template: Some(template.to_owned()), ..Config::default() };
    trainer(&fixtures().join("chat").join(family), config)
}

pub fn example(content: Content) -> Example {
    content.into()
}

pub fn messages(turns: &Value) -> Content {
    let turns = turns.as_array().expect("a list").iter().map(|turn| {
        let mut extra = turn.as_object().expect("an object").clone();
        // A content of null stays: it says that there is none.
        let mut take = |key: &str| match extra.get(key) {
            Some(Value::String(text)) => {
                let text = text.clone();
                extra.shift_remove(key);
                text
            }
            _ => String::new(),
        };
        Message { role: take("role"), content: take("content"), extra }
    });
    Content::Messages(turns.collect())
}

/// A row of the chat fixtures, with its tools and variables where a data source puts them.
pub fn conversation(row: &Value) -> Content {
    let Content::Messages(mut turns) = messages(&row["messages"]) else { unreachable!() };
    let mut variables = row["chat_template_kwargs"].as_object().cloned().unwrap_or_default();
    if let Some(tools) = row.get("tools") {
        variables.insert("tools".into(), tools.clone());
    }
    turns[0].extra.insert("chat_template_kwargs".into(), variables.into());
    Content::Messages(turns)
}

pub fn prompt_completion(prompt: &str, completion: &str) -> Example {
    example(Content::PromptCompletion { prompt: prompt.into(), completion: completion.into() })
}

/// What is trained, as text with its special tokens, one entry for each run of supervised tokens.
pub fn trained(directory: &Path, encoded: &Sequence) -> Vec<String> {
    let tokenizer = tokenizers::Tokenizer::from_file(directory.join("tokenizer.json")).expect("a tokenizer");
    let tokens: Vec<_> = encoded.tokens.iter().zip(&encoded.supervised).collect();
    tokens
        .chunk_by(|(_, one), (_, other)| one == other)
        .filter(|run| *run[0].1)
        .map(|run| tokenizer.decode(&run.iter().map(|(token, _)| **token).collect::<Vec<_>>(), false).expect("text"))
        .collect()
}
