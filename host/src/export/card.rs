//! The model card, `README.md`: where a model comes from, how it was trained, and who may use it, as the Hugging Face Hub reads it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::checkpoint::{self, Checkpoint};
use crate::config::Settings;
use crate::metrics;
use crate::model::Directory;
use crate::{hub, text_file};

/// The name of the file.
pub(super) const FILE: &str = "README.md";

/// The beginning of what it says.
const WRITTEN: &str = "Written by mdt-host.";

/// Sections of the configuration that say how a model was trained; the others are about the machine.
const SHOWN: [&str; 7] = ["model", "data", "tokenizer", "trainer", "optimizer", "scheduler", "compute"];

/// What a card says.
pub struct Card {
    /// The model that was trained, as the hub names it.
    base: Option<String>,
    /// Its licence, by the hub's name for it.
    licence: Option<String>,
    /// What loads it, `transformers` or `mlx`, and what else it is.
    library: &'static str,
    tags: Vec<String>,
    /// The checkpoint of the job, where it is known.
    job: Option<Checkpoint>,
    /// Its last losses.
    figures: Vec<(String, f64)>,
    /// What the card of the model itself says, where this program wrote it and the job is not known.
    earlier: Option<String>,
}

impl Card {
    /// The card of a model in a directory, or with an adapter from another one, for a library.
    pub fn of(settings: &Settings, model: &Directory, adapter: Option<&Path>, library: &'static str) -> Self {
        let places = adapter.into_iter().chain([model.named()]);
        let job = places.clone().find_map(job_of);
        let base = match &job {
            Some((_, checkpoint)) => base_of(checkpoint, model),
            None => name_of(model.path()).or_else(|| settings.model.name.clone()),
        };
        let own = text_file::read_of_model(&model.path().join(FILE)).unwrap_or_default();
        let earlier = own
            .find(WRITTEN)
            .filter(|_| job.is_none() && adapter.is_none())
            .map(|start| own[start..].trim_end().to_owned());
        let base = base.or_else(|| earlier.as_ref().and_then(|_| in_header(&own, "base_model")));
        let tags = ["mdt-host".to_owned()].into_iter().chain(adapter.map(|_| "lora".to_owned())).collect();
        let figures =
            job.as_ref().map_or_else(Vec::new, |(output, checkpoint)| figures(output, checkpoint.state.update));
        Self {
            base,
            licence: licence(model.path()),
            library,
            tags,
            job: job.map(|(_, checkpoint)| checkpoint),
            figures,
            earlier,
        }
    }

    /// The same with another tag.
    #[must_use]
    pub fn tagged(mut self, tag: String) -> Self {
        self.tags.push(tag);
        self
    }

    /// Its text.
    pub fn text(&self) -> String {
        let mut lines = vec!["---".to_owned()];
        let mut key = |key: &str, value: &str| lines.push(format!("{key}: {}", json!(value)));
        self.base.iter().for_each(|base| key("base_model", base));
        self.licence.iter().for_each(|licence| key("license", licence));
        key("library_name", self.library);
        key("pipeline_tag", "text-generation");
        lines.push("tags:".to_owned());
        lines.extend(self.tags.iter().map(|tag| format!("- {}", json!(tag))));
        let base = self.base.as_ref();
        let from = base.map_or(String::new(), |base| format!(" Trained from [{base}](https://huggingface.co/{base})."));
        lines.extend(["---", "", "# Model card", ""].map(str::to_owned));
        if let Some(earlier) = &self.earlier {
            lines.push(earlier.clone());
            return lines.join("\n") + "\n";
        }
        lines.push(format!("{WRITTEN}{from}"));
        if !self.figures.is_empty() {
            lines.extend(["", "## Figures", "", "| | |", "|---|---|"].map(str::to_owned));
            lines.extend(self.figures.iter().map(|(name, value)| format!("| {name} | {value:.4} |")));
        }
        if let Some(Checkpoint { state, .. }) = &self.job {
            let count = format!("Updates: {}. Fingerprint of the rows: `{}`.", state.update, state.data);
            let what = "Configuration, without defaults:";
            lines.extend(["", "## Training", "", &count, "", what, "", "```toml"].map(str::to_owned));
            let defaults: BTreeSet<&str> = state.defaults.iter().map(String::as_str).collect();
            for section in SHOWN {
                settings(section, &state.config[section], &defaults, &mut lines);
            }
            lines.push(format!("seed = {}", state.config["seed"]));
            let components: Vec<_> = state.components.iter().map(|component| format!("`{component}`")).collect();
            lines.extend(["```".to_owned(), String::new(), format!("Components: {}.", components.join(", "))]);
        }
        lines.join("\n") + "\n"
    }
}

/// Lines of the keys that are set and no defaults. Paths of this machine are nobody's business.
fn settings(key: &str, value: &Value, defaults: &BTreeSet<&str>, lines: &mut Vec<String>) {
    match value {
        Value::Null => {}
        _ if defaults.contains(key) => {}
        Value::Object(table) => {
            table.iter().for_each(|(name, value)| settings(&format!("{key}.{name}"), value, defaults, lines));
        }
        value => lines.push(format!("{key} = {}", without_directories(value))),
    }
}

/// A value in which paths are names of files.
fn without_directories(value: &Value) -> Value {
    match value {
        Value::String(path) if Path::new(path).is_absolute() => {
            json!(Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default())
        }
        Value::Array(list) => list.iter().map(without_directories).collect(),
        Value::Object(table) => table
            .iter()
            .map(|(key, value)| (key.clone(), without_directories(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        other => other.clone(),
    }
}

/// The output directory of the job that a path belongs to, and the checkpoint that is meant.
fn job_of(path: &Path) -> Option<(PathBuf, Checkpoint)> {
    if path.join(checkpoint::STATE).is_file() {
        let output = path.parent()?.parent()?;
        return Some((output.to_owned(), Checkpoint::look(path).ok()?));
    }
    let outputs = [Some(path), path.parent().filter(|_| path.ends_with(super::DIRECTORY))];
    outputs.into_iter().flatten().find_map(|output| {
        let (&update, _) = checkpoint::written(output).last_key_value()?;
        Some((output.to_owned(), Checkpoint::look(&checkpoint::place(output, update)).ok()?))
    })
}

/// The last losses that a job has written, up to an update.
fn figures(output: &Path, update: u64) -> Vec<(String, f64)> {
    let text = text_file::read_of_model(&output.join(metrics::FILE)).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let lines: Vec<_> = lines.filter(|line| line["step"].as_u64().is_some_and(|step| step <= update)).collect();
    let names = [
        ("loss of the last update", "loss"),
        ("held-out loss", "eval_loss"),
        ("held-out perplexity", "eval_perplexity"),
    ];
    let last = |key: &str| lines.iter().rev().find_map(|line| line[key].as_f64());
    names.into_iter().filter_map(|(name, key)| Some((name.to_owned(), last(key)?))).collect()
}

fn base_of(checkpoint: &Checkpoint, model: &Directory) -> Option<String> {
    let configured = checkpoint.state.config["model"]["name"].as_str().map(str::to_owned);
    configured
        .filter(|name| hub::is_name(name))
        .or_else(|| name_of(model.path()))
        .or_else(|| name_of(Path::new(&checkpoint.state.model)))
}

/// The name of a model in a cache of the hub: `models--ORG--NAME/snapshots/COMMIT`.
fn name_of(path: &Path) -> Option<String> {
    let folder = path.parent()?.parent()?.file_name()?.to_str()?;
    let (org, name) = folder.strip_prefix("models--")?.split_once("--")?;
    Some(format!("{org}/{name}"))
}

/// The text of a key in the header of a card.
fn in_header(card: &str, key: &str) -> Option<String> {
    let (header, _) = card.strip_prefix("---")?.split_once("\n---")?;
    let value = header.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(value.trim().trim_matches(['"', '\'']).to_owned()).filter(|value| !value.is_empty())
}

/// The licence of a model, as its own card or its LICENSE file says.
fn licence(model: &Path) -> Option<String> {
    let card = text_file::read_of_model(&model.join(FILE)).unwrap_or_default();
    in_header(&card, "license").or_else(|| {
        let files = ["LICENSE", "LICENSE.txt", "LICENSE.md"];
        let text = files.into_iter().find_map(|name| fs::read_to_string(model.join(name)).ok())?;
        let known = [
            ("Apache License", "apache-2.0"),
            ("MIT License", "mit"),
            ("Permission is hereby granted, free of charge", "mit"),
            ("LLAMA 2 COMMUNITY LICENSE", "llama2"),
            ("Llama 2 Community License", "llama2"),
            ("META LLAMA 3 COMMUNITY LICENSE", "llama3"),
            ("Gemma Terms of Use", "gemma"),
        ];
        Some(known.iter().find(|(words, _)| text.contains(words)).map_or("other", |(_, name)| name).to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_licence_is_that_of_the_models_own_card_or_of_its_licence_file() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(licence(place.path()), None, "nothing is made up");
        fs::write(place.path().join("LICENSE"), "Apache License\nVersion 2.0").unwrap();
        assert_eq!(licence(place.path()).as_deref(), Some("apache-2.0"));
        fs::write(place.path().join("LICENSE"), "All rights reserved").unwrap();
        assert_eq!(licence(place.path()).as_deref(), Some("other"));
        fs::write(place.path().join(FILE), "---\nlanguage: en\nlicense: \"llama3.2\"\n---\nlicense: mit\n").unwrap();
        assert_eq!(licence(place.path()).as_deref(), Some("llama3.2"));
    }

    #[test]
    fn a_model_in_a_cache_of_the_hub_has_its_name_there() {
        let name = |path: &str| name_of(Path::new(path));
        assert_eq!(name("/cache/hub/models--org--small-1B/snapshots/0a1b").as_deref(), Some("org/small-1B"));
        assert_eq!(name("/models/small"), None);
    }

    #[test]
    fn the_configuration_has_what_was_set_and_no_path_of_this_machine() {
        let mut lines = Vec::new();
        let value =
            json!({ "train": [{ "path": "/home/me/rows.jsonl", "weight": null }], "shuffle": true, "limit": null });
        settings("data", &value, &BTreeSet::from(["data.shuffle"]), &mut lines);
        assert_eq!(lines, ["data.train = [{\"path\":\"rows.jsonl\",\"weight\":null}]"]);
    }
}
