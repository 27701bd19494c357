//! The configuration of one job, resolved.

use super::components::Kind;
use super::merge::Merged;
use super::origin::Origin;
use super::schema::{Child, Shape};
use super::sections::{Data, Exported, Settings};
use super::value::Path;
use crate::exit::Failure;
use crate::launchers::Started;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The configuration of one job: checked, with all defaults.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The host's own keys.
    pub settings: Settings,
    /// What a launcher has told this process.
    pub started: Option<Started>,
    /// The keys that were dropped because a higher layer chose another component. Start-up lines show them.
    pub dropped: Vec<Dropped>,
    /// The flat files among the layers, which change defaults. Start-up lines show them.
    pub flat_files: Vec<PathBuf>,
    pub(super) components: BTreeMap<Kind, Chosen>,
    /// Every resolved value, section by section, the host's keys before the component's.
    pub entries: Vec<Entry>,
    /// All values as one object, keys sorted.
    pub(super) values: Value,
    /// The values of a configuration in which only the components are set.
    pub(super) defaults: Value,
    /// Why the component of the model is unknown, if it is.
    pub(super) undecided: Option<Failure>,
}

/// A component that the configuration chooses.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// Its id within its kind.
    pub id: String,
    /// The configuration that it is created with: an object with the keys of its schema and their defaults. It includes
    /// keys of the host that are in the component's schema too.
    pub config: Value,
}

/// One resolved value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The keys that lead to it.
    pub path: Vec<String>,
    /// The value. Lists, empty tables and null (unset) are values.
    pub value: Value,
    /// The layer it came from.
    pub origin: Origin,
}

/// A key of a lower layer that the component chosen by a higher layer does not have.
#[derive(Debug, Clone, PartialEq)]
pub struct Dropped {
    /// The key, its parts joined by dots.
    pub key: String,
    /// The value it had.
    pub value: Value,
    /// The layer that had it.
    pub origin: Origin,
    /// The component that does not have it.
    pub component: String,
}

impl std::fmt::Display for Dropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Dropped { key, value, origin, component } = self;
        write!(f, "dropped {key} = {value} ({origin}): `{component}` has no such key")
    }
}

impl Resolved {
    /// Every chosen component.
    pub fn components(&self) -> impl Iterator<Item = (&Kind, &Chosen)> {
        self.components.iter()
    }

    /// The component chosen for `kind`. Only [`Kind::Model`] may have none: if neither `model.use` nor a model that can be
    /// read is set.
    pub fn component(&self, kind: Kind) -> Option<&Chosen> {
        self.components.get(&kind)
    }

    /// Whether each file is read by the data component for its extension: no other one is chosen than the default.
    pub fn reads_by_extension(&self) -> bool {
        self.settings.data.id == Data::default().id
    }

    /// Checks that a model and training data are set.
    pub fn require_job(&self) -> Result<(), Failure> {
        let Settings { model, data, .. } = &self.settings;
        if model.path.is_none() && model.name.is_none() {
            return Err(Failure::configuration("there is no model to train: `model.path` is not set")
                .help("set it in a --config file, or with `--set model.path=DIR`"));
        }
        if data.train.is_empty() {
            return Err(Failure::configuration("there is nothing to train on: `data.train` is not set")
                .help("set it in a --config file, or with `--set data.train=FILE`"));
        }
        data.split().map_err(|e| self.origin("data.eval_split").into_iter().fold(e, Failure::at))?;
        self.require_held_out_rows()
    }

    /// Checks that there are held-out rows if a key needs their loss.
    fn require_held_out_rows(&self) -> Result<(), Failure> {
        let Settings { data, trainer, checkpoint, .. } = &self.settings;
        let keys = [
            ("trainer.eval_at_start", trainer.eval_at_start),
            ("trainer.early_stopping_patience", trainer.early_stopping_patience > 0),
            ("checkpoint.keep_best", checkpoint.keep_best),
            ("checkpoint.export", checkpoint.export == Exported::Best),
        ];
        let wanted = keys.into_iter().find(|&(_, wanted)| wanted);
        let (Some((key, _)), true, None) = (wanted, data.eval.is_empty(), data.eval_split) else {
            return Ok(());
        };
        let failure = Failure::configuration(format!("`{key}` is set, and there are no held-out rows"));
        let failure = self.origin(key).into_iter().fold(failure, Failure::at);
        Err(failure
            .help("name a file of them with `data.eval`, or draw them from the training rows with `data.eval_split`"))
    }

    /// The layer that a value came from.
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.entries.iter().find(|entry| entry.path.join(".") == key).map(|entry| &entry.origin)
    }

    /// Checks that the component of the model is known.
    pub fn require_model(&self) -> Result<(), Failure> {
        self.undecided.clone().map_or(Ok(()), Err)
    }
}

/// All values in the order of the schema, with their origins.
pub(super) fn entries(schema: &Value, merged: &mut Merged) -> Vec<Entry> {
    let mut entries = Vec::new();
    let shape = Shape::of(schema);
    collect_entries(Some(&shape), &merged.values, &mut Path::new(), &mut merged.origins, &mut entries);
    entries
}

fn collect_entries(
    shape: Option<&Shape<'_>>,
    value: &Value,
    path: &mut Path,
    origins: &mut BTreeMap<Path, Origin>,
    entries: &mut Vec<Entry>,
) {
    let table = match value.as_object().filter(|table| !table.is_empty()) {
        Some(table) => table,
        None => {
            let origin = origins.remove(path).unwrap_or(Origin::Default);
            entries.push(Entry { path: path.clone(), value: value.clone(), origin });
            return;
        }
    };
    let listed = shape.map(Shape::keys).unwrap_or_default();
    let unlisted = table.keys().map(String::as_str).filter(|key| !listed.contains(key));
    for key in listed.iter().copied().chain(unlisted) {
        if let Some(value) = table.get(key) {
            let child = match shape.map(|shape| shape.child(key)) {
                Some(Child::Known(child)) => Some(child),
                _ => None,
            };
            path.push(key.to_owned());
            collect_entries(child.as_ref(), value, path, origins, entries);
            path.pop();
        }
    }
}
