//! Promises of the configuration as a whole, over made-up components.

use super::*;
use crate::exit::{Failure, Status};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

mod components;
mod every_key;
mod flat;
mod jobs;
mod order;
mod refusals;

/// Two optimizers that share some keys, and one component of each other kind.
struct Installed;

impl Components for Installed {
    fn schema(&self, kind: Kind, id: &str) -> Result<Value, Failure> {
        let tls = json!({ "type": "object", "properties": {
            "cert": { "type": "string" }, "key": { "type": "string" } } });
        let properties = match (kind, id) {
            (Kind::Optimizer, "adamw") => json!({
                "beta1": { "type": "number", "format": "float", "minimum": 0, "maximum": 1, "default": 0.9f32 },
                "beta2": { "type": "number", "default": 0.999 },
                "eps": { "type": "number", "default": 1e-8 },
                "weight_decay": { "type": "number", "default": 0.01 },
            }),
            (Kind::Optimizer, "lion") => json!({
                "beta1": { "type": "number", "default": 0.95 },
                "cautious": { "type": "boolean", "default": false },
            }),
            (Kind::Optimizer, "needy") => json!({ "rank": { "type": "integer" } }),
            (Kind::Tokenizer, "huggingface") => {
                json!({ "chat_template": { "type": ["string", "null"], "default": null } })
            }
            (Kind::Trainer, "sft") => json!({
                "max_seq_len": { "type": "integer", "default": 1024 },
                "join_turns": { "type": "boolean", "default": false },
                "template": { "type": ["string", "null"], "default": null },
            }),
            (Kind::Data, "jsonl") => json!({
                "format": { "enum": ["auto", "messages", "text"], "default": "auto" },
                "fields": { "type": "object", "additionalProperties": { "type": "string" }, "default": {} },
            }),
            (Kind::Comm, "grpc") => json!({
                "tls": { "anyOf": [tls, { "type": "null" }], "default": null },
                "heartbeat_s": { "type": "number", "default": 60 },
            }),
            (Kind::Model, "llama") => json!({ "rope_theta": { "type": ["number", "null"], "default": null } }),
            (Kind::Compute, "mlx") => {
                json!({ "memory_limit": { "type": "integer", "format": "uint64", "minimum": 0, "default": 0 } })
            }
            (Kind::Comm, "local") => json!({}),
            (Kind::Observer, "board") => json!({
                "port": { "type": "integer", "minimum": 1, "default": 6006 },
                "colours": { "type": "object", "properties": {
                    "loss": { "type": "string", "default": "red" }, "lr": { "type": "string", "default": "blue" } } },
            }),
            _ => {
                let message = format!("there is no {} component `{id}`", kind.name());
                return Err(Failure::new(Status::Plugin, message));
            }
        };
        let required = if id == "needy" { json!(["rank"]) } else { json!([]) };
        Ok(json!({ "type": "object", "properties": properties, "additionalProperties": false, "required": required }))
    }

    fn ids(&self, kind: Kind) -> Vec<String> {
        let ids: &[&str] = match kind {
            Kind::Optimizer => &["adamw", "lion"],
            Kind::Tokenizer => &["huggingface"],
            Kind::Trainer => &["sft"],
            Kind::Data => &["jsonl"],
            Kind::Comm => &["grpc", "local"],
            Kind::Model => &["llama"],
            Kind::Compute => &["mlx"],
            Kind::Observer => &["board"],
        };
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    fn model_for(&self, path: Option<&str>, _name: Option<(&str, Option<&str>)>) -> Result<String, Failure> {
        match path {
            Some("nowhere") => Err(Failure::new(Status::Input, "there is no model in `nowhere`")),
            _ => Ok("llama".into()),
        }
    }
}

/// A directory for configuration files, and the sources that read them.
struct Configuration {
    directory: tempfile::TempDir,
    sources: Sources,
}

impl Configuration {
    fn new() -> Self {
        Configuration { directory: tempfile::tempdir().expect("a temporary directory"), sources: Sources::default() }
    }

    /// With one TOML file, `job.toml`.
    fn with(toml: &str) -> Self {
        Configuration::new().file("job.toml", toml)
    }

    fn file(mut self, name: &str, text: &str) -> Self {
        let path = self.path(name);
        std::fs::write(&path, text).expect("a written file");
        self.sources.files.push(path);
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn set(mut self, text: &str) -> Self {
        self.sources.set.push(text.to_owned());
        self
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.sources.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    fn profile(mut self, name: &str) -> Self {
        self.sources.profile = Some(name.to_owned());
        self
    }

    fn resolve(&self) -> Result<Resolved, Failure> {
        Layers::read(&self.sources)?.resolve(&Installed)
    }

    fn resolved(&self) -> Resolved {
        self.resolve().unwrap_or_else(|failure| panic!("{failure}"))
    }

    fn failure(&self) -> Failure {
        self.resolve().expect_err("a failure")
    }

    /// The failure as it is printed, with file names instead of paths.
    fn message(&self) -> String {
        let directory = format!("{}/", self.directory.path().display());
        self.failure().to_string().replace(&directory, "")
    }
}

fn value<'a>(resolved: &'a Resolved, key: &str) -> &'a Value {
    key.split('.').fold(&resolved.values, |value, part| &value[part])
}

fn origin(resolved: &Resolved, key: &str) -> String {
    let entry = resolved.entries.iter().find(|entry| entry.path.join(".") == key);
    let origin = &entry.unwrap_or_else(|| panic!("no entry {key}")).origin;
    match origin {
        Origin::File { path, .. } => {
            let directory = format!("{}/", path.parent().unwrap_or(Path::new("")).display());
            origin.to_string().replace(&directory, "")
        }
        other => other.to_string(),
    }
}
