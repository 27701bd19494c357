//! `config schema`: one JSON Schema for the host and all plugins.

use super::components::{Components, SECTIONS};
use super::section_schema::{combine, host_schema};
use super::value::Table;
use super::{flat, observers};
use crate::exit::Failure;
use serde_json::{Value, json};

/// The JSON Schema (draft 2020-12) of a configuration file, with the keys of every component. Components that do not
/// load are left out, and their failures are returned.
pub fn schema(components: &dyn Components) -> (Value, Vec<Failure>) {
    let host = host_schema();
    let mut properties = host["properties"].clone();
    let mut left_out = Vec::new();
    for section in &SECTIONS {
        let host_section = &host["properties"][section.name];
        let mut branches = vec![json!({ "type": "string" })];
        for id in section.ids(components) {
            let own = match section.schema(components, &id) {
                Ok(own) => own,
                Err(failure) => {
                    left_out.push(failure);
                    continue;
                }
            };
            let mut table = combine(host_section, &own);
            let default = host_section["properties"]["use"]["default"] == id;
            table["properties"]["use"] = json!({ "const": id });
            // A partial file is a valid layer, so only the key that selects the branch is required.
            table["required"] = if default { json!([]) } else { json!(["use"]) };
            branches.push(table);
        }
        // `use` may be set in another layer. Then only the host's keys can be checked.
        let mut partial = host_section.clone();
        partial["properties"]["use"] = Value::Bool(false);
        branches.push(partial);
        properties[section.name] = json!({ "description": host_section["description"], "anyOf": branches });
    }
    properties[observers::NAME] = observers::full_schema(&host, components, &mut left_out);
    for name in ["checkpoint", "metrics", "plugins"] {
        properties[name]["additionalProperties"] = Value::Bool(false);
    }
    let mut top: Table = flat::properties(&host).map(|(name, property)| (name.to_owned(), property)).collect();
    top.insert(
        "profile".into(),
        json!({
            "description": "Tables that `--profile NAME` applies over the file.",
            "type": "object",
            "additionalProperties": { "$ref": "#/$defs/layer", "unevaluatedProperties": false },
        }),
    );
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of mdt-host",
        "description": host["description"],
        "$ref": "#/$defs/layer",
        "properties": top,
        "unevaluatedProperties": false,
        "$defs": { "layer": { "type": "object", "properties": properties } },
    });
    (schema, left_out)
}
