//! Resolving layers to one configuration: choose components, drop or refuse keys, merge, check.

use super::check::{check, settle_numbers};
use super::components::{Components, SECTIONS, Section};
use super::errors;
use super::layer::Layer;
use super::layers::Layers;
use super::merge::{Merged, merge};
use super::observers;
use super::origin::Origin;
use super::resolved::{self, Chosen, Dropped, Resolved};
use super::schema::{Child, Shape};
use super::section_schema::{combine, host_schema};
use super::sections::{Plugins, Settings};
use super::value::{Path, Table};
use crate::exit::Failure;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path as FilePath;

impl Layers {
    /// Where to find plugins. This is needed before any plugin can be found.
    pub fn plugins(&self) -> Result<Plugins, Failure> {
        let host = host_schema();
        let only_plugins = |layer: &Layer| {
            let mut layer = layer.clone();
            layer.values.retain(|key, _| key == "plugins");
            layer
        };
        let layers: Vec<Layer> = self.layers.iter().map(only_plugins).collect();
        refuse_unknown_host_keys(&host, &layers)?;
        let merged = checked(&host, std::iter::once(&default_layer()?).chain(&layers))?;
        let mut plugins = settings(&merged)?.plugins;
        let origin = |key: &str| merged.origin(&["plugins".to_owned(), key.to_owned()]);
        let in_file = |origin: &&Origin| matches!(origin, Origin::File { .. });
        if plugins.lock.is_none() || origin("lock").filter(in_file).is_some() {
            plugins.dirs_only_in_file = origin("dirs").filter(in_file).cloned();
        }
        Ok(plugins)
    }

    /// Merges the layers over the defaults of the host and of the components they choose, and checks everything.
    ///
    /// # Errors
    /// The first of these: a wrong key or value of the host; a component that is missing or does not load; a wrong key or
    /// value of a component. A model that cannot be read is an error of [`Resolved::require_model`], because errors of
    /// plugins come first.
    pub fn resolve(&self, components: &dyn Components) -> Result<Resolved, Failure> {
        let host = host_schema();
        refuse_unknown_host_keys(&host, &self.layers)?;
        let mut layers = self.layers.clone();
        let built_in = default_layer()?;
        let chosen_by_host = checked(&host, std::iter::once(&built_in).chain(&layers))?;

        let mut defaults = vec![built_in];
        let (choices, undecided) = choose(&host, &chosen_by_host, components, &mut defaults)?;
        let mut dropped = Vec::new();
        for choice in &choices {
            choice.keep_known_keys(&host, components, &mut layers, &mut dropped)?;
        }

        let schema = whole_schema(&host, &choices);
        let mut merged = checked(&schema, defaults.iter().chain(&layers))?;
        observers::complete(&host, &mut merged, components)?;
        let defaults = checked(&schema, defaults.iter())?;
        let settings = settings(&merged)?;
        if settings.comm.rank >= settings.comm.world_size {
            return Err(errors::rank_outside_world(&settings.comm, &merged));
        }
        let components = choices.iter().filter_map(|choice| choice.component(&merged)).collect();
        let flat_files = self.layers.iter().filter_map(Layer::flat_file).map(FilePath::to_owned).collect();
        let entries = resolved::entries(&schema, &mut merged);
        let (values, defaults) = (merged.values, defaults.values);
        let started = self.started.clone();
        Ok(Resolved { settings, started, dropped, flat_files, components, entries, values, defaults, undecided })
    }
}

/// The component that a section chooses, and its keys.
struct Choice {
    section: &'static Section,
    /// `None` if no model is set.
    id: Option<String>,
    /// The schema of the component's own keys.
    own: Value,
    /// The schema of the section: the host's keys and the component's own.
    schema: Value,
}

/// Loads the schema of each chosen component, and adds a layer with its defaults. The component of a model that cannot
/// be read stays undecided; the failure is returned, because other errors come first.
fn choose(
    host: &Value,
    merged: &Merged,
    components: &dyn Components,
    defaults: &mut Vec<Layer>,
) -> Result<(Vec<Choice>, Option<Failure>), Failure> {
    let mut choices = Vec::new();
    let mut undecided = None;
    for section in &SECTIONS {
        let text = |key: &str| merged.values[section.name][key].as_str();
        let mut id = text("use").map(str::to_owned);
        let mut place = merged.origin(&[section.name.to_owned(), "use".to_owned()]).cloned();
        if id.is_none() && (text("path").is_some() || text("name").is_some()) {
            match components.model_for(text("path"), text("name").map(|name| (name, text("revision")))) {
                Ok(found) => {
                    let table = table(section.name, json!({ "use": found }));
                    defaults.push(Layer::new(Origin::Model, table, BTreeMap::new())?);
                    id = Some(found);
                    place = Some(Origin::Model);
                }
                Err(failure) => {
                    let key = if text("path").is_some() { "path" } else { "name" };
                    let origin = merged.origin(&[section.name.to_owned(), key.to_owned()]);
                    undecided = Some(origin.into_iter().fold(failure, Failure::at));
                }
            }
        }
        let own = match &id {
            Some(id) => section.schema(components, id).map_err(|e| place.into_iter().fold(e, Failure::at))?,
            None => json!({ "additionalProperties": undecided.is_some() }),
        };
        if let Some(id) = &id {
            let origin = match section.kind {
                Some(_) => Origin::Component(format!("{}/{id}", section.name)),
                None => Origin::Default,
            };
            let stated = table(section.name, Value::Object(Shape::of(&own).defaults()));
            defaults.push(Layer::new(origin, stated, BTreeMap::new())?);
        }
        choices.push(Choice::new(host, section, id, own));
    }
    Ok((choices, undecided))
}

impl Choice {
    fn new(host: &Value, section: &'static Section, id: Option<String>, own: Value) -> Self {
        let schema = combine(&host["properties"][section.name], &own);
        Choice { section, id, own, schema }
    }

    /// The keys of a section's table that this component does not have.
    fn unknown_keys(&self, table: &Value) -> Vec<Path> {
        Shape::of(&self.schema).unknown_keys(table)
    }

    /// Drops unknown keys from layers below the one that chose this component. Refuses unknown keys in the other layers,
    /// and keys that the component for which the layer was written does not have either.
    fn keep_known_keys(
        &self,
        host: &Value,
        components: &dyn Components,
        layers: &mut [Layer],
        dropped: &mut Vec<Dropped>,
    ) -> Result<(), Failure> {
        let name = self.section.name;
        let built_in = host["properties"][name]["properties"]["use"]["default"].as_str();
        let mut current = built_in.map(str::to_owned);
        for layer in layers {
            if let Some(choice) = layer.choice(name) {
                current = Some(choice.to_owned());
            }
            let Some(table) = layer.values.get(name) else {
                continue;
            };
            let unknown = self.unknown_keys(table);
            let for_another = current.is_some() && current != self.id;
            // If the plugin of the other component is not installed, its keys cannot be checked, only dropped.
            let other = current.as_ref().filter(|_| for_another && !unknown.is_empty()).and_then(|id| {
                let own = self.section.schema(components, id).ok()?;
                Some(Choice::new(host, self.section, current.clone(), own))
            });
            let judge = other.as_ref().unwrap_or(self);
            let misspelt = if for_another && other.is_none() { Vec::new() } else { judge.unknown_keys(table) };
            if let Some(path) = unknown.iter().find(|path| misspelt.contains(path)) {
                let path: Path = std::iter::once(name.to_owned()).chain(path.iter().cloned()).collect();
                let schema = whole_schema(host, std::slice::from_ref(judge));
                return Err(errors::unknown_key(host, &schema, &path, judge.id.as_deref(), layer));
            }
            dropped.extend(unknown.iter().filter_map(|path| self.drop_key(layer, path)));
        }
        Ok(())
    }

    fn drop_key(&self, layer: &mut Layer, path: &[String]) -> Option<Dropped> {
        let (last, tables) = path.split_last()?;
        let key: Path = std::iter::once(self.section.name.to_owned()).chain(path.iter().cloned()).collect();
        let origin = layer.origin_of(&key);
        let section = layer.values.get_mut(self.section.name)?;
        let table = tables.iter().try_fold(section, |value, key| value.get_mut(key))?;
        let value = table.as_object_mut()?.shift_remove(last)?;
        Some(Dropped { key: key.join("."), value, origin, component: self.id.clone().unwrap_or_default() })
    }

    /// The configuration that the component is created with: the keys in its own schema.
    fn component(&self, merged: &Merged) -> Option<(super::Kind, Chosen)> {
        let shape = Shape::of(&self.own);
        let listed = shape.keys();
        let host_owned = &self.schema["properties"];
        let knows = |key: &str| match shape.child(key) {
            Child::Known(_) | Child::Open => listed.contains(&key) || host_owned.get(key).is_none(),
            Child::Unknown => false,
        };
        let table = merged.values.get(self.section.name)?.as_object()?;
        let config = table.iter().filter(|(key, _)| knows(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
        Some((self.section.kind?, Chosen { id: self.id.clone()?, config: Value::Object(config) }))
    }
}

fn refuse_unknown_host_keys(host: &Value, layers: &[Layer]) -> Result<(), Failure> {
    for layer in layers {
        for (key, value) in &layer.values {
            let chooses = SECTIONS.iter().any(|section| section.name == key);
            let table = if chooses { json!({ key: {} }) } else { json!({ key: value }) };
            if let Some(path) = Shape::of(host).unknown_keys(&table).into_iter().next() {
                return Err(errors::unknown_key(host, host, &path, None, layer));
            }
        }
    }
    Ok(())
}

/// The host's schema with each section as its component extends it.
fn whole_schema(host: &Value, choices: &[Choice]) -> Value {
    let mut schema = host.clone();
    for choice in choices {
        schema["properties"][choice.section.name] = choice.schema.clone();
    }
    schema
}

fn default_layer() -> Result<Layer, Failure> {
    match serde_json::to_value(Settings::default()) {
        Ok(Value::Object(mut values)) => {
            // The keys of the default scheduler do not belong to the chosen one.
            values["scheduler"] = json!({ "use": values["scheduler"]["use"] });
            Layer::new(Origin::Default, values, BTreeMap::new())
        }
        other => Err(Failure::configuration(format!("the built-in defaults are no table: {other:?}"))),
    }
}

fn table(section: &str, value: Value) -> Table {
    Table::from_iter([(section.to_owned(), value)])
}

/// Merges layers, converts numbers to their types, and checks every value.
fn checked<'a>(schema: &Value, layers: impl IntoIterator<Item = &'a Layer>) -> Result<Merged, Failure> {
    let mut merged = merge(layers)?;
    settle_numbers(&Shape::of(schema), &mut merged.values);
    check(schema, &merged.values, &mut Path::new()).map_err(|mismatch| errors::mismatch(&mismatch, &merged))?;
    Ok(merged)
}

fn settings(merged: &Merged) -> Result<Settings, Failure> {
    serde_json::from_value(merged.values.clone())
        .map_err(|e| Failure::configuration("the configuration cannot be read").because(e))
}
