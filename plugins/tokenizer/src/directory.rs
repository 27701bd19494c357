//! The tokenizer's files in a model directory, as transformers 4 and 5 write them.

use std::fs;
use std::path::{Path, PathBuf};

use mdt_plugin_api::{Error, NamedFile, Result};
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::regular_file::read_if_present;
use crate::template::TemplateSource;

const TEMPLATE_FILE: &str = "chat_template.jinja";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// A directory of further chat templates.
const TEMPLATES: &str = "additional_chat_templates";
/// Where processors of transformers 4 have theirs.
const PROCESSOR_TEMPLATE: &str = "chat_template.json";
/// The name of the template for rows with tools.
const TOOL_USE: &str = "tool_use";

/// What tokenizers of this form consist of.
const FILES: [&str; 12] = [
    "added_tokens.json",
    TEMPLATE_FILE,
    PROCESSOR_TEMPLATE,
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    TOKENIZER_CONFIG,
    "vocab.json",
    "vocab.txt",
];

/// The tokens that templates know by name.
const NAMED_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The configuration files beside `tokenizer.json`; each of them may be missing.
pub struct ModelDirectory {
    path: PathBuf,
    tokenizer_config: Map<String, Value>,
    special_tokens_map: Map<String, Value>,
    generation_config: Map<String, Value>,
    model_config: Value,
}

impl ModelDirectory {
    /// Reads the files; `model_config` is the directory's `config.json`.
    ///
    /// # Errors
    /// A file that is there and cannot be read, or is no JSON object.
    pub fn open(path: &Path, model_config: &Value) -> Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            tokenizer_config: read_object(&path.join(TOKENIZER_CONFIG))?,
            special_tokens_map: read_object(&path.join("special_tokens_map.json"))?,
            generation_config: read_object(&path.join("generation_config.json"))?,
            model_config: model_config.clone(),
        })
    }

    /// Where `tokenizer.json` is, and its text.
    ///
    /// # Errors
    /// The file is missing (the error says what to do) or cannot be read.
    pub fn tokenizer(&self) -> Result<(PathBuf, String)> {
        let file = self.path.join("tokenizer.json");
        if let Some(text) = read_if_present(&file)? {
            return Ok((file, text));
        }
        let advice = if self.path.join("tokenizer.model").is_file() {
            "the directory has a SentencePiece tokenizer.model; make a tokenizer.json of it with transformers: \
             AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
        } else {
            "copy tokenizer.json and tokenizer_config.json of the model, or of the tokenizer to train with, into the \
             directory of model.path"
        };
        Err(Error::input("the model directory has no tokenizer.json").with("file", file.display()).help(advice))
    }

    /// A special token by its name (`eos_token`), as text.
    pub fn special_token(&self, name: &str) -> Option<&str> {
        let text = |entry: &'_ Value| entry.as_str().is_some() || entry["content"].is_string();
        [&self.tokenizer_config, &self.special_tokens_map]
            .into_iter()
            .filter_map(|file| file.get(name))
            .find(|entry| text(entry))
            .and_then(|entry| entry.as_str().or_else(|| entry["content"].as_str()))
    }

    /// All special tokens that have a name, as (name, text). A model may have further names, `extra_special_tokens`.
    pub fn special_tokens(&self) -> Vec<(String, String)> {
        let known =
            NAMED_TOKENS.iter().filter_map(|&name| Some((name.to_owned(), self.special_token(name)?.to_owned())));
        let extra = self.tokenizer_config.get("extra_special_tokens").and_then(Value::as_object);
        let text = |entry: &Value| entry.as_str().or_else(|| entry["content"].as_str()).map(str::to_owned);
        let extra = extra.into_iter().flatten().filter_map(|(name, entry)| Some((name.clone(), text(entry)?)));
        known.chain(extra).collect()
    }

    /// The tokens of `added_tokens_decoder`, by their ids, which older tokenizers have beside `tokenizer.json`.
    pub fn added_tokens(&self) -> Vec<(u32, AddedToken)> {
        let entries = self.tokenizer_config.get("added_tokens_decoder").and_then(Value::as_object);
        let token = |(id, entry): (&String, &Value)| {
            let is = |key: &str| entry[key].as_bool();
            let token = AddedToken::from(entry["content"].as_str()?, is("special").unwrap_or(false));
            let token = token.single_word(is("single_word").unwrap_or(false)).lstrip(is("lstrip").unwrap_or(false));
            let token = token.rstrip(is("rstrip").unwrap_or(false));
            let token = match is("normalized") {
                Some(normalized) => token.normalized(normalized),
                None => token,
            };
            Some((id.parse().ok()?, token))
        };
        let mut tokens: Vec<_> = entries.into_iter().flatten().filter_map(token).collect();
        tokens.sort_by_key(|(id, _)| *id);
        tokens
    }

    /// Whether `add_bos_token` is set.
    pub fn adds_bos(&self) -> bool {
        self.tokenizer_config.get("add_bos_token").and_then(Value::as_bool).unwrap_or(false)
    }

    /// `eos_token_id` of `generation_config.json` and `config.json`: one or several that end an answer.
    pub fn stop_ids(&self) -> Vec<u32> {
        let ids = |value: &Value| match value {
            Value::Array(ids) => ids.iter().filter_map(Value::as_u64).collect(),
            one => one.as_u64().into_iter().collect::<Vec<_>>(),
        };
        [self.generation_config.get("eos_token_id"), self.model_config.get("eos_token_id")]
            .into_iter()
            .flatten()
            .flat_map(ids)
            .filter_map(|id| u32::try_from(id).ok())
            .collect()
    }

    /// The files by which a directory has this tokenizer, with the template `configured` in the place of its own.
    ///
    /// # Errors
    /// The directory of further templates cannot be read.
    pub fn files(&self, configured: Option<&str>) -> Result<Vec<NamedFile>> {
        let mut names: Vec<String> =
            FILES.into_iter().filter(|name| self.path.join(name).exists()).map(str::to_owned).collect();
        let templates = self.path.join(TEMPLATES);
        if templates.is_dir() {
            let unreadable = |error| Error::input("cannot be read").with("file", templates.display()).caused_by(error);
            for entry in fs::read_dir(&templates).map_err(unreadable)? {
                let name = entry.map_err(unreadable)?.file_name();
                let is_used = |name: &&str| {
                    // A configured template is that of rows with tools, too.
                    name.strip_suffix(".jinja").is_some_and(|name| configured.is_none() || name != TOOL_USE)
                };
                names.extend(name.to_str().filter(is_used).map(|name| format!("{TEMPLATES}/{name}")));
            }
        }
        if configured.is_some() && !names.iter().any(|name| name == TEMPLATE_FILE) {
            names.push(TEMPLATE_FILE.to_owned());
        }
        names.sort();
        let file = |name: String| {
            let text = configured.and_then(|template| self.with_template(&name, template));
            NamedFile { name, text }
        };
        Ok(names.into_iter().map(file).collect())
    }

    /// What a file says with this template in the place of the directory's own, where that is not what it says now. Older
    /// readers know no other place for the template than `tokenizer_config.json`.
    fn with_template(&self, name: &str, template: &str) -> Option<String> {
        match name {
            TEMPLATE_FILE => Some(template.to_owned()),
            TOKENIZER_CONFIG if self.tokenizer_config.contains_key("chat_template") => {
                let mut config = self.tokenizer_config.clone();
                config.insert("chat_template".to_owned(), template.into());
                Some(format!("{:#}\n", Value::Object(config)))
            }
            _ => None,
        }
    }

    /// The chat template, and another for rows with tools if there is one.
    ///
    /// # Errors
    /// A file that cannot be read; templates of which none is the default.
    pub fn chat_templates(&self) -> Result<Option<(TemplateSource, Option<TemplateSource>)>> {
        let mut named = self.named_templates()?;
        if named.is_empty() {
            return Ok(None);
        }
        let mut take = |name: &str| {
            let place = named.iter().position(|(known, _)| known == name)?;
            Some(named.remove(place).1)
        };
        let (default, tool_use) = (take("default"), take(TOOL_USE));
        let default = default.ok_or_else(|| {
            let names = named.iter().map(|(name, _)| name.as_str()).chain(tool_use.as_ref().map(|_| TOOL_USE));
            Error::input("none of the model's chat templates is named \"default\"")
                .with("directory", self.path.display())
                .with("named", names.collect::<Vec<_>>().join(", "))
                .help("name the one to use with tokenizer.chat_template")
        })?;
        Ok(Some((default, tool_use)))
    }

    /// All templates of the directory by their names, as transformers looks for them: `chat_template.jinja` and those of
    /// `additional_chat_templates/`, else `chat_template` in `tokenizer_config.json`, which is one template or a list of
    /// named ones, else `chat_template.json`.
    fn named_templates(&self) -> Result<Vec<(String, TemplateSource)>> {
        let mut found = Vec::new();
        let file = self.path.join(TEMPLATE_FILE);
        if let Some(text) = read_if_present(&file)? {
            found.push(("default".to_owned(), TemplateSource { origin: file.display().to_string(), text }));
        }
        for NamedFile { name, .. } in self.files(None)? {
            let Some(name) = name.strip_prefix(TEMPLATES).and_then(|name| name[1..].strip_suffix(".jinja")) else {
                continue;
            };
            let file = self.path.join(TEMPLATES).join(format!("{name}.jinja"));
            if let Some(text) = read_if_present(&file)? {
                found.push((name.to_owned(), TemplateSource { origin: file.display().to_string(), text }));
            }
        }
        if !found.is_empty() {
            return Ok(found);
        }
        let processor = read_object(&self.path.join(PROCESSOR_TEMPLATE))?;
        for (file, config) in [(TOKENIZER_CONFIG, &self.tokenizer_config), (PROCESSOR_TEMPLATE, &processor)] {
            let origin = format!("chat_template in {}", self.path.join(file).display());
            let text = |value: &Value| {
                let source = |text: &str| TemplateSource { origin: origin.clone(), text: text.to_owned() };
                value.as_str().map(source)
            };
            let named = match config.get("chat_template") {
                None | Some(Value::Null) => continue,
                Some(value @ Value::String(_)) => vec![Some("default".to_owned()).zip(text(value))],
                Some(Value::Array(named)) => named
                    .iter()
                    .map(|entry| entry["name"].as_str().map(str::to_owned).zip(text(&entry["template"])))
                    .collect(),
                Some(Value::Object(named)) => {
                    named.iter().map(|(name, value)| Some(name.clone()).zip(text(value))).collect()
                }
                Some(_) => {
                    return Err(Error::input("the chat template is neither text nor a list").with("template", origin));
                }
            };
            return Ok(named.into_iter().flatten().collect());
        }
        Ok(found)
    }

    /// The template that a key of the configuration gives: the template itself, the name of one of the model's, or the path
    /// of a file with it.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn configured_template(&self, key: &str, value: &str) -> Result<TemplateSource> {
        if value.contains("{{") || value.contains("{%") {
            return Ok(TemplateSource { origin: key.into(), text: value.to_owned() });
        }
        if let Some((_, source)) = self.named_templates()?.into_iter().find(|(name, _)| name == value) {
            return Ok(source);
        }
        let error = |message: String| {
            Error::config(message).with("key", key).with("file", value).help(
                "give the path of a .jinja file, relative to the working directory, the name of one of the model's \
                 templates, or the template itself",
            )
        };
        match read_if_present(Path::new(value)) {
            Ok(Some(text)) => Ok(TemplateSource { origin: value.to_owned(), text }),
            Ok(None) => Err(error(format!("{key} names a file that is not there"))),
            Err(cause) => Err(error(format!("the file that {key} names cannot be read")).caused_by(cause)),
        }
    }
}

fn read_object(path: &Path) -> Result<Map<String, Value>> {
    let Some(text) = read_if_present(path)? else { return Ok(Map::new()) };
    serde_json::from_str(&text)
        .map_err(|error| Error::input("not a JSON object").with("file", path.display()).caused_by(error))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn directory(files: &[(&str, &str)]) -> (tempfile::TempDir, Result<ModelDirectory>) {
        let place = tempfile::tempdir().expect("a temporary directory");
        for (name, text) in files {
            fs::write(place.path().join(name), text).expect("written");
        }
        let opened = ModelDirectory::open(place.path(), &json!({"eos_token_id": 7}));
        (place, opened)
    }

    #[test]
    fn special_tokens_are_read_in_both_forms_and_from_both_files() {
        let (_place, opened) = directory(&[
            ("tokenizer_config.json", r#"{"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": null}"#),
            ("special_tokens_map.json", r#"{"bos_token": "<other>", "eos_token": "</s>"}"#),
        ]);
        let opened = opened.expect("opens");
        let token = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        assert_eq!(opened.special_tokens(), [token("bos_token", "<s>"), token("eos_token", "</s>")]);
        let (_place, opened) =
            directory(&[("tokenizer_config.json", r#"{"extra_special_tokens": {"image_token": "<image>"}}"#)]);
        assert_eq!(opened.expect("opens").special_tokens(), [token("image_token", "<image>")]);
    }

    #[test]
    fn stop_ids_are_one_or_several() {
        let (_place, opened) = directory(&[("generation_config.json", r#"{"eos_token_id": [3, 4]}"#)]);
        assert_eq!(opened.expect("opens").stop_ids(), [3, 4, 7]);
    }

    #[test]
    fn a_template_file_comes_before_the_one_in_the_configuration() {
        let config = r#"{"chat_template": "old"}"#;
        let (_place, opened) = directory(&[("tokenizer_config.json", config), ("chat_template.jinja", "new")]);
        let (template, _) = opened.expect("opens").chat_templates().expect("read").expect("present");
        assert_eq!(template.text, "new");
        assert!(template.origin.ends_with("chat_template.jinja"));
    }

    #[test]
    fn of_several_named_templates_the_default_is_taken() {
        let named =
            r#"{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}"#;
        let (_place, opened) = directory(&[("tokenizer_config.json", named)]);
        let opened = opened.expect("opens");
        let (default, tool_use) = opened.chat_templates().expect("read").expect("present");
        assert_eq!((default.text.as_str(), tool_use.expect("present").text.as_str()), ("d", "t"));
        assert_eq!(opened.configured_template("tokenizer.chat_template", "tool_use").expect("found").text, "t");

        let named = r#"{"chat_template": [{"name": "rag", "template": "t"}]}"#;
        let (_place, opened) = directory(&[("tokenizer_config.json", named)]);
        let error = opened.expect("opens").chat_templates().expect_err("no default");
        assert!(error.context().contains(&("named".into(), "rag".into())), "{error:?}");
    }

    #[test]
    fn templates_are_found_where_transformers_looks_for_them() {
        let of = |files: &[(&str, &str)]| {
            let (place, opened) = directory(files);
            fs::create_dir(place.path().join(TEMPLATES)).expect("made");
            fs::write(place.path().join(TEMPLATES).join("tool_use.jinja"), "t").expect("written");
            let (default, tool_use) = opened.expect("opens").chat_templates().expect("read").expect("present");
            (default.text, tool_use.map(|source| source.text))
        };
        assert_eq!(of(&[("chat_template.jinja", "d")]), ("d".to_owned(), Some("t".to_owned())));
        for (file, config) in [
            ("chat_template.json", r#"{"chat_template": "d"}"#),
            ("tokenizer_config.json", r#"{"chat_template": {"default": "d"}}"#),
        ] {
            let (_place, opened) = directory(&[(file, config)]);
            let (default, tool_use) = opened.expect("opens").chat_templates().expect("read").expect("present");
            assert_eq!((default.text.as_str(), tool_use), ("d", None), "{file}");
        }
    }

    #[test]
    fn its_files_are_those_of_a_tokenizer_and_a_configured_template_takes_the_place_of_its_own() {
        let config = r#"{"chat_template": "old", "eos_token": "</s>"}"#;
        let (place, opened) =
            directory(&[("tokenizer_config.json", config), ("tokenizer.json", "{}"), ("notes.txt", "private")]);
        fs::create_dir(place.path().join(TEMPLATES)).expect("made");
        fs::write(place.path().join(TEMPLATES).join("tools.jinja"), "tools").expect("written");
        let opened = opened.expect("opens");
        let file = |name: &str, text: Option<&str>| NamedFile { name: name.into(), text: text.map(str::to_owned) };
        let own = [
            file("additional_chat_templates/tools.jinja", None),
            file("tokenizer.json", None),
            file("tokenizer_config.json", None),
        ];
        assert_eq!(opened.files(None).expect("listed"), own);
        let [tools, json, _] = own;
        let config = "{\n  \"chat_template\": \"new\",\n  \"eos_token\": \"</s>\"\n}\n";
        let expected =
            [tools, file("chat_template.jinja", Some("new")), json, file("tokenizer_config.json", Some(config))];
        assert_eq!(opened.files(Some("new")).expect("listed"), expected);
    }

    #[test]
    fn a_broken_file_is_named() {
        let (_place, opened) = directory(&[("tokenizer_config.json", "{\n\"a\": }")]);
        let error = format!("{:?}", opened.err().expect("broken"));
        assert!(error.contains("tokenizer_config.json") && error.contains("line 2"), "{error}");
    }

    #[test]
    fn a_missing_tokenizer_says_what_to_do() {
        let (_place, opened) = directory(&[("tokenizer.model", "")]);
        let error = format!("{:?}", opened.expect("opens").tokenizer().expect_err("missing"));
        assert!(error.contains("tokenizer.json") && error.contains("save_pretrained"), "{error}");
    }
}
