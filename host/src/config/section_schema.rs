//! The schema of a section: the host's keys and those of the component that it chooses.

use super::schema::Shape;
use super::sections::Settings;
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

/// Joins the host's keys of a section with those of a component. A key of both must be valid for both, and has the
/// component's default.
pub(super) fn combine(host_section: &Value, own: &Value) -> Value {
    let shape = Shape::of(own);
    let mut section = host_section.clone();
    let mut additional = shape.nodes().iter().filter_map(|node| node.get("additionalProperties"));
    section["additionalProperties"] = additional.rfind(|any| **any != false).cloned().unwrap_or(json!(false));
    if let Some(required) = own.get("required") {
        section["required"] = required.clone();
    }
    for key in shape.keys() {
        let own: Vec<&Value> = shape.properties().filter(|(name, _)| *name == key).map(|(_, p)| p).collect();
        let own = if let [only] = own[..] { only.clone() } else { json!({ "anyOf": own }) };
        section["properties"][key] = match host_section["properties"].get(key) {
            None => own,
            Some(host) => json!({
                "description": own.get("description").or(host.get("description")),
                "default": own.get("default").or(host.get("default")),
                "allOf": [host, own],
            }),
        };
    }
    section
}
