//! The record of how a model was trained on text: the form of its rows, the keys that decide what of them is trained, and its chat
//! template. It is beside everything that training and `export` write, so that generation and evaluation do as training did.
//! Other programs do not know the file.
//!
//! ```json
//! {
//!   "format": 1,
//!   "rows": ["prompts"],
//!   "tokenizer": { "use": "huggingface", "template_date": "2024-07-26" },
//!   "trainer": {
//!     "use": "sft", "prompt_format": "plain", "train_on": "assistant", "turns": "all",
//!     "max_seq_len": 2048, "long_rows": "cut"
//!   }
//! }
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use mdt_plugin_api::{Example, Kind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::checkpoint::Checkpoint;
use crate::config::Chosen;
use crate::data::Examples;
use crate::exit::{Failure, Status};
use crate::job::Job;
use crate::model::{Source, in_cache};
use crate::prompt_format::PromptFormat;
use crate::text_file;
use crate::tokenizer_files::TokenizerFiles;

/// The file with the record, beside a model or an adapter.
pub const FILE: &str = "training_format.json";

/// The version of the record. It changes when an older program would misread a newer file.
const FORMAT: u64 = 1;

/// Keys of the trainer that the tokens of a row, and which of them are trained, depend on.
const OF_TRAINER: [&str; 3] = [PromptFormat::KEY, "train_on", "turns"];

/// Keys that every trainer has, which decide what becomes of long rows. Earlier versions did not write them down.
const OF_LONG_ROWS: [&str; 2] = ["max_seq_len", "long_rows"];

/// Keys of the tokenizer that the text of a conversation depends on.
const OF_TOKENIZER: [&str; 2] = ["chat_template_kwargs", "template_date"];

/// Keys of the tokenizer that name templates, and the files that these are written to.
const TEMPLATES: [(&str, &str); 2] =
    [("chat_template", "chat_template.jinja"), ("training_template", "training_template.jinja")];

/// The sources whose first rows are looked at.
const SOURCES: usize = 8;

/// A file longer than this is not one of these.
const LONGEST: u64 = 1 << 20;

/// The form of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RowForm {
    /// Turns, which the chat template renders.
    Conversations,
    /// A prompt and its completion.
    Prompts,
    /// A text.
    Texts,
}

/// How a model was trained on text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingFormat {
    format: u64,
    /// The forms of its rows; none where the trainer has rows of other forms.
    rows: Vec<RowForm>,
    /// The tokenizer (`use`) and its keys.
    tokenizer: Map<String, Value>,
    /// The trainer (`use`) and its keys.
    trainer: Map<String, Value>,
    /// The file that it was read from.
    #[serde(skip)]
    place: PathBuf,
    /// The texts of templates by their keys, where there are no files of them.
    #[serde(skip)]
    texts: BTreeMap<String, String>,
}

impl RowForm {
    fn of(row: &Example) -> Option<Self> {
        match () {
            () if row.has("messages") => Some(Self::Conversations),
            () if row.has("prompt") && row.has("completion") => Some(Self::Prompts),
            () if row.has("text") => Some(Self::Texts),
            () => None,
        }
    }

    /// The forms of the first rows of a job's sources. An error of a source is told where all rows are read.
    pub fn of_job(job: &Job) -> Vec<Self> {
        let sources = job.resolved.settings.data.train_names();
        let first = |source: &String| Self::of(&Examples::open(job, source).ok()?.next().ok()??);
        let mut forms: Vec<_> = sources.iter().take(SOURCES).filter_map(first).collect();
        forms.sort_unstable();
        forms.dedup();
        forms
    }
}

impl TrainingFormat {
    /// What a job does with rows of these forms.
    pub fn of_job(job: &Job, rows: Vec<RowForm>) -> Self {
        let keys = |kind| match job.resolved.component(kind) {
            Some(Chosen { id, config }) => (id.clone(), config.clone()),
            None => (String::new(), Value::Null),
        };
        let (mut trainer, every_trainer) = (keys(Kind::Trainer), json!(job.resolved.settings.trainer));
        OF_LONG_ROWS.iter().for_each(|key| trainer.1[*key] = every_trainer[*key].clone());
        Self::of(rows, trainer, keys(Kind::Tokenizer))
    }

    fn of(rows: Vec<RowForm>, trainer: (String, Value), tokenizer: (String, Value)) -> Self {
        let set = |(id, config): &(String, Value), keys: &[&str]| {
            let is_set = |value: &&Value| !value.is_null() && value.as_object().is_none_or(|table| !table.is_empty());
            let own = keys.iter().filter_map(|key| Some(((*key).to_owned(), config.get(*key).filter(is_set)?.clone())));
            [("use".to_owned(), json!(id))].into_iter().chain(own).collect::<Map<_, _>>()
        };
        let (mut of_trainer, mut of_tokenizer) =
            (set(&trainer, &[&OF_TRAINER[..], &OF_LONG_ROWS].concat()), set(&tokenizer, &OF_TOKENIZER));
        if !rows.contains(&RowForm::Prompts) {
            of_trainer.shift_remove(PromptFormat::KEY);
        } else if trainer.1.get(PromptFormat::KEY).is_some_and(Value::is_null) {
            // What the trainer does where the user does not choose.
            of_trainer.insert(PromptFormat::KEY.to_owned(), json!(PromptFormat::Plain.name()));
        }
        let configured = TEMPLATES.iter().filter(|(key, _)| tokenizer.1.get(*key).is_some_and(Value::is_string));
        of_tokenizer.extend(configured.map(|(key, file)| ((*key).to_owned(), json!(file))));
        let (place, texts) = (PathBuf::new(), BTreeMap::new());
        Self { format: FORMAT, rows, tokenizer: of_tokenizer, trainer: of_trainer, place, texts }
    }

    /// The record of what a path leads to: a model, an adapter, a checkpoint or the output of a job. `None` where it has none, or
    /// cannot be opened, which whoever does so says.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn recorded(path: &Path) -> Result<Option<Self>, Failure> {
        match Source::of(path) {
            Ok(Source::Checkpoint(checkpoint)) => Ok(Some(Self::of_checkpoint(*checkpoint))),
            Ok(Source::Model(directory) | Source::Adapter(directory)) => Self::read(&directory.join(FILE)),
            Err(_) => Ok(None),
        }
    }

    fn of_checkpoint(Checkpoint { path, state }: Checkpoint) -> Self {
        let section = |name: &str| {
            let table = &state.config[name];
            (table["use"].as_str().unwrap_or_default().to_owned(), table.clone())
        };
        let mut format = Self::of(state.rows, section("trainer"), section("tokenizer"));
        // An earlier version kept no texts; the configuration names their files.
        format
            .tokenizer
            .retain(|key, _| TEMPLATES.iter().all(|(name, _)| name != key) || state.templates.contains_key(key));
        Self { place: path, texts: state.templates, ..format }
    }

    fn read(path: &Path) -> Result<Option<Self>, Failure> {
        if !path.exists() {
            return Ok(None);
        }
        let unreadable = |cause: &dyn std::fmt::Display| {
            Failure::new(Status::Input, "the record of how the model was trained cannot be read")
                .at(path.display())
                .because(cause)
                .help(
                    "remove the file to choose everything yourself, or bring it back from where the model was written",
                )
        };
        let text = text_file::read(path, LONGEST).map_err(|error| unreadable(&error))?;
        let record: Self = serde_json::from_str(&text).map_err(|error| unreadable(&error))?;
        match record.format {
            FORMAT => Ok(Some(Self { place: path.to_owned(), ..record })),
            other => Err(unreadable(&format!("its format is {other}, this program knows {FORMAT}"))),
        }
    }

    /// The record of the adapter or else the model that a job uses.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of_source(job: &Job) -> Result<Option<Self>, Failure> {
        let model = &job.resolved.settings.model;
        let adapter = model.adapter.as_ref().and_then(|adapter| adapter.path.clone());
        let cached = || in_cache(model.name.as_deref()?, model.revision.as_deref(), false).ok();
        for path in [adapter, model.path.clone().or_else(cached)].into_iter().flatten() {
            if let Some(record) = Self::recorded(&path)? {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// The record that what a job writes of a trained model gets: that of the model, with what the user has changed of it; `None`
    /// where it has none.
    ///
    /// # Errors
    /// As [`TrainingFormat::of_source`].
    pub fn passed_on(job: &Job) -> Result<Option<Self>, Failure> {
        Ok(Self::of_source(job)?.map(|record| Self { trainer: record.trainer, ..Self::of_job(job, record.rows) }))
    }

    /// The forms of the rows.
    pub fn rows(&self) -> &[RowForm] {
        &self.rows
    }

    /// The file that it was read from.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Its text.
    pub fn text(&self) -> String {
        format!("{:#}\n", json!(self))
    }

    /// The keys of a section of the configuration by which another job does the same, where that has chosen this component.
    pub fn keys(&self, section: &str, chosen: &str) -> Map<String, Value> {
        let keys = if section == "trainer" { &self.trainer } else { &self.tokenizer };
        if keys.get("use").and_then(Value::as_str) != Some(chosen) {
            return Map::new();
        }
        let known = |key: &&String| match section {
            "trainer" => OF_TRAINER.iter().chain(&OF_LONG_ROWS).any(|name| name == key),
            _ => OF_TOKENIZER.contains(&key.as_str()) || TEMPLATES.iter().any(|(name, _)| name == key),
        };
        let directory = self.place.parent().unwrap_or(Path::new(""));
        let value = |key: &String, value: &Value| match TEMPLATES.iter().find(|(name, _)| name == key) {
            // Never another file than the one that is written with the record.
            Some((_, file)) => self.texts.get(key).map_or_else(|| json!(directory.join(file)), |text| json!(text)),
            None => value.clone(),
        };
        keys.iter().filter(|(key, _)| known(key)).map(|(key, own)| (key.clone(), value(key, own))).collect()
    }

    /// What prompts were that stand alone, as `generate --prompt` has them; `None` where no row tells.
    pub fn prompts(&self) -> Option<PromptFormat> {
        let of_rows = |form: &RowForm| match form {
            RowForm::Conversations => PromptFormat::Template,
            RowForm::Prompts => self.prompts_of_rows().unwrap_or(PromptFormat::Plain),
            RowForm::Texts => PromptFormat::Plain,
        };
        let of_prompts = self.rows.iter().find(|form| **form == RowForm::Prompts);
        of_prompts.or_else(|| self.rows.first()).map(of_rows)
    }

    /// What the prompts of rows were that have a completion; `None` where there were none.
    pub fn prompts_of_rows(&self) -> Option<PromptFormat> {
        PromptFormat::of(&json!(self.trainer))
    }

    /// What the prompts of a job's rows are, for its start-up lines; `None` where no row has one, or the model has no chat template.
    pub fn announced(&self, has_template: bool) -> Option<String> {
        let format = self.prompts_of_rows().filter(|_| has_template)?;
        let other = match format {
            PromptFormat::Plain => "\"template\" renders them as questions and answers",
            PromptFormat::Template => "\"plain\" leaves the chat template out",
        };
        Some(format!("{}, and `generate` will do the same (trainer.prompt_format; {other})", format.description()))
    }

    /// The line that says what a command does with text, and where that is not what training did. `prompts` is what it does with
    /// prompts, where it has some; `trains` says whether it matters what of a row is trained.
    pub fn compared(&self, job: &Job, prompts: Option<PromptFormat>, trains: bool) -> String {
        self.compared_with(&Self::of_job(job, self.rows.clone()), prompts, trains)
    }

    fn compared_with(&self, now: &Self, prompts: Option<PromptFormat>, trains: bool) -> String {
        let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let mut here = Vec::new();
        let mut then = Vec::new();
        if let Some(prompts) = prompts {
            here.push(format!("prompts are {}", prompts.description()));
            then.extend(
                self.prompts().filter(|then| *then != prompts).map(|then| format!("they were {}", then.description())),
            );
        }
        let of_trainer = OF_TRAINER.iter().filter(|key| trains && prompts.is_none_or(|_| **key != PromptFormat::KEY));
        let of_long_rows = OF_LONG_ROWS.iter().filter(|key| trains && self.trainer.contains_key(**key));
        for (keys, own, recorded) in [
            (of_trainer.chain(of_long_rows).copied().collect::<Vec<_>>(), &now.trainer, &self.trainer),
            (OF_TOKENIZER.to_vec(), &now.tokenizer, &self.tokenizer),
        ] {
            for key in keys {
                let values = [own.get(key), recorded.get(key)];
                if key != "template_date" || values[0] != values[1] {
                    here.extend(values[0].map(|value| format!("{key} = {}", shown(value))));
                }
                if values[0] != values[1] && own.get("use") == recorded.get("use") {
                    then.push(format!("{key} was {}", values[1].map_or_else(|| "not set".to_owned(), shown)));
                }
            }
        }
        let mut line = if here.is_empty() { "the chat template".to_owned() } else { here.join(", ") };
        let place = self.place.display();
        let _ = match then.is_empty() {
            true => write!(line, ", as in training ({place})"),
            false => write!(line, "; in training {} ({place})", then.join(", ")),
        };
        if then.is_empty() { format!("format   {line}") } else { format!("warning: not as in training: {line}") }
    }
}

/// The texts of the configured templates among the files of a tokenizer, by their keys.
pub fn templates(tokenizer: &TokenizerFiles) -> BTreeMap<String, String> {
    let text = |(key, file): &(&str, &str)| Some(((*key).to_owned(), tokenizer.text(file)?.to_owned()));
    TEMPLATES.iter().filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(rows: &[RowForm], trainer: Value, tokenizer: Value) -> TrainingFormat {
        TrainingFormat::of(rows.to_vec(), ("sft".into(), trainer), ("huggingface".into(), tokenizer))
    }

    #[test]
    fn what_the_trainer_does_by_itself_is_written_down() {
        let keys = json!({"prompt_format": null, "train_on": "all", "turns": "all", "max_seq_len": 64, "other": 1});
        let record =
            format(&[RowForm::Prompts], keys.clone(), json!({"chat_template": null, "chat_template_kwargs": {}}));
        let written: Value = serde_json::from_str(&record.text()).unwrap();
        assert_eq!(
            written,
            json!({
                "format": 1, "rows": ["prompts"], "tokenizer": {"use": "huggingface"},
                "trainer": {"use": "sft", "prompt_format": "plain", "train_on": "all", "turns": "all", "max_seq_len": 64},
            })
        );
        assert_eq!(record.prompts(), Some(PromptFormat::Plain));
        let conversations = format(&[RowForm::Conversations], keys, json!({}));
        assert_eq!(conversations.trainer.get("prompt_format"), None, "it says nothing of these rows");
        assert_eq!(conversations.prompts(), Some(PromptFormat::Template));
        assert_eq!(format(&[RowForm::Texts], json!({}), json!({})).prompts(), Some(PromptFormat::Plain));
        assert_eq!(format(&[], json!({}), json!({})).prompts(), None);
    }

    #[test]
    fn a_record_sets_known_keys_of_the_component_that_it_is_of_and_names_its_own_files() {
        let keys = json!({"train_on": "all"});
        let mut record = format(&[RowForm::Texts], keys, json!({"chat_template": "/home/me/a.jinja"}));
        record.place = PathBuf::from("model/training_format.json");
        record.trainer.insert("command".into(), json!("rm"));
        record.tokenizer.insert("chat_template".into(), json!("/etc/passwd"));
        assert_eq!(json!(record.keys("trainer", "sft")), json!({"train_on": "all"}));
        assert_eq!(record.keys("trainer", "dpo"), Map::new());
        assert_eq!(
            json!(record.keys("tokenizer", "huggingface")),
            json!({"chat_template": "model/chat_template.jinja"})
        );
    }

    #[test]
    fn one_line_says_what_is_done_and_what_training_did_otherwise() {
        let then = format(&[RowForm::Prompts], json!({"prompt_format": "template", "train_on": "all"}), json!({}));
        let then = TrainingFormat { place: "m/training_format.json".into(), ..then };
        let line = then.compared_with(&then, Some(PromptFormat::Template), false);
        assert_eq!(line, "format   prompts are rendered by the chat template, as in training (m/training_format.json)");
        let now = format(&[], json!({"train_on": "assistant"}), json!({"chat_template_kwargs": {"a": 1}}));
        assert_eq!(
            then.compared_with(&now, Some(PromptFormat::Plain), true),
            "warning: not as in training: prompts are plain text, train_on = assistant, chat_template_kwargs = {\"a\":1}; in training \
             they were rendered by the chat template, train_on was all, chat_template_kwargs was not set (m/training_format.json)"
        );
        let lengths = |length: u32| format(&[RowForm::Texts], json!({"max_seq_len": length}), json!({}));
        let line = lengths(16).compared_with(&lengths(32), None, true);
        assert_eq!(line, "warning: not as in training: max_seq_len = 32; in training max_seq_len was 16 ()");
        let earlier = format(&[RowForm::Texts], json!({}), json!({}));
        assert_eq!(earlier.compared_with(&lengths(32), None, true), "format   the chat template, as in training ()");
    }
}
