//! What the configuration needs to know about components, and the sections that choose one.

use super::sections::Scheduler;
use crate::exit::{Failure, Status};
use serde_json::Value;

pub use mdt_plugin_api::Kind;

/// What the configuration needs to know about plugins.
pub trait Components {
    /// The JSON Schema (draft 2020-12, without references) of the keys of component (kind, id), defaults in `default`.
    /// No foreign code runs for it.
    ///
    /// # Errors
    /// The plugin is missing or cannot be used; the failure holds the search trace.
    fn schema(&self, kind: Kind, id: &str) -> Result<Value, Failure>;

    /// The ids of all components of this kind, for the full schema.
    fn ids(&self, kind: Kind) -> Vec<String>;

    /// The model component for the model in directory `path`, or else of this `name` and revision, by its `config.json`.
    ///
    /// # Errors
    /// The model cannot be read, or no component knows its type.
    fn model_for(&self, path: Option<&str>, name: Option<(&str, Option<&str>)>) -> Result<String, Failure>;
}

/// A section that chooses a component by `use`.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) name: &'static str,
    /// The kind of plugin that is chosen; `None` for schedulers, which are part of the host.
    pub(super) kind: Option<Kind>,
}

/// All sections that choose a component, in the order they are shown.
pub(super) const SECTIONS: [Section; 8] = [
    Section::plugin(Kind::Model),
    Section::plugin(Kind::Data),
    Section::plugin(Kind::Tokenizer),
    Section::plugin(Kind::Trainer),
    Section::plugin(Kind::Optimizer),
    Section { name: "scheduler", kind: None },
    Section::plugin(Kind::Comm),
    Section::plugin(Kind::Compute),
];

impl Section {
    const fn plugin(kind: Kind) -> Self {
        Section { name: kind.name(), kind: Some(kind) }
    }

    /// The JSON Schema of the keys of component `id` of this section.
    ///
    /// # Errors
    /// As [`Components::schema`]; [`Status::Configuration`] if there is no such scheduler.
    pub(super) fn schema(&self, components: &dyn Components, id: &str) -> Result<Value, Failure> {
        match self.kind {
            Some(kind) => components.schema(kind, id),
            None => Scheduler::schema(id).ok_or_else(|| {
                let known = Scheduler::IDS.join("`, `");
                Failure::new(Status::Configuration, format!("there is no scheduler `{id}`"))
                    .help(format!("`scheduler.use` may be `{known}`"))
            }),
        }
    }

    /// The ids of all components of this section.
    pub(super) fn ids(&self, components: &dyn Components) -> Vec<String> {
        match self.kind {
            Some(kind) => components.ids(kind),
            None => Scheduler::IDS.map(String::from).to_vec(),
        }
    }
}
