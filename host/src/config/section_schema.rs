//! The schema of a section: the host's keys and those of the component that it chooses.

use super::schema::Shape;
use super::sections::Settings;
use super::value::Table;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

/// The schema of everything that the host reads, without references. Sections have only the host's own keys.
pub(super) fn host_schema() -> Value {
    let generator = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true).into_generator();
    let mut schema = generator.into_root_schema_for::<Settings>().to_value();
    for (_, section) in schema["properties"].as_object_mut().into_iter().flatten() {
        // The defaults are those of the section's keys. A second copy could be merged in the wrong order.
        if let Some(section) = section.as_object_mut().filter(|s| s.contains_key("properties")) {
            section.remove("default");
        }
    }
    // The derived schema of `Scheduler` has the keys of all schedulers; the chosen one brings its own.
    schema["properties"]["scheduler"] = json!({
        "description": schema["properties"]["scheduler"]["description"],
        "type": "object",
        "properties": { "use": {
            "description": "The scheduler. Default: `cosine`.", "type": "string", "default": "cosine",
        } },
    });
    schema
}

/// The schema of one section for one component.
pub(super) struct Combined {
    /// The section; its references have the form `#/$defs/PREFIX.NAME`.
    pub(super) section: Value,
    /// The schemas that those references name.
    pub(super) definitions: Table,
}

/// Joins the host's keys of a section with those of a component. A key of both must be valid for both, and has the
/// component's default.
pub(super) fn combine(host_section: &Value, own: &Value, prefix: &str) -> Combined {
    let shape = Shape::of(own);
    let mut section = host_section.clone();
    let mut additional = Value::Bool(false);
    for node in shape.nodes() {
        if let Some(any) = node.get("additionalProperties").filter(|a| **a != Value::Bool(false)) {
            additional = within(any, prefix);
        }
    }
    section["additionalProperties"] = additional;
    if let Some(required) = own.get("required") {
        section["required"] = required.clone();
    }
    for key in shape.keys() {
        let own: Vec<Value> =
            shape.properties().filter(|(name, _)| *name == key).map(|(_, p)| within(p, prefix)).collect();
        let own = match <[Value; 1]>::try_from(own) {
            Ok([only]) => only,
            Err(several) => json!({ "anyOf": several }),
        };
        let joined = match host_section["properties"].get(key) {
            None => own,
            Some(host) => json!({
                "description": own.get("description").or(host.get("description")),
                "default": own.get("default").or(host.get("default")),
                "allOf": [host, own],
            }),
        };
        section["properties"][key] = joined;
    }
    let definitions = own.get("$defs").and_then(Value::as_object).into_iter().flatten();
    let definitions = definitions.map(|(name, d)| (format!("{prefix}.{name}"), within(d, prefix))).collect();
    Combined { section, definitions }
}

/// A component's schema for use inside a larger one: references have the component's prefix.
fn within(schema: &Value, prefix: &str) -> Value {
    match schema {
        Value::Object(table) => {
            let entries =
                table.iter().map(|(key, value)| match value.as_str().and_then(|v| v.strip_prefix("#/$defs/")) {
                    Some(name) if key == "$ref" => (key.clone(), format!("#/$defs/{prefix}.{name}").into()),
                    _ => (key.clone(), within(value, prefix)),
                });
            Value::Object(entries.collect())
        }
        Value::Array(items) => items.iter().map(|item| within(item, prefix)).collect(),
        other => other.clone(),
    }
}
