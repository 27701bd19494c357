//! Reading a JSON Schema: the keys of a table and their defaults.
//!
//! It supports the part of draft 2020-12 that declared schemas use: `properties`, `additionalProperties`, and `allOf`,
//! `anyOf`, `oneOf`, whose branches are joined. One rule is stricter than the draft: a schema that
//! lists `properties` allows no others unless it says so, because a misspelt key must be an error.

use super::value::{Path, Table};
use serde_json::Value;

/// All schemas that apply to a value: the schema and its branches.
#[derive(Debug, Clone)]
pub(super) struct Shape<'a> {
    nodes: Vec<&'a Value>,
}

/// What a schema says about one key of a table.
pub(super) enum Child<'a> {
    /// The key has this shape.
    Known(Shape<'a>),
    /// Any key with any value is allowed.
    Open,
    /// There is no such key.
    Unknown,
}

impl<'a> Shape<'a> {
    /// The shape that a schema describes.
    pub(super) fn of(schema: &'a Value) -> Self {
        Self::spread([schema])
    }

    /// The schemas.
    pub(super) fn nodes(&self) -> &[&'a Value] {
        &self.nodes
    }

    fn spread(nodes: impl IntoIterator<Item = &'a Value>) -> Self {
        let mut shape = Shape { nodes: Vec::new() };
        nodes.into_iter().for_each(|node| shape.add(node));
        shape
    }

    fn add(&mut self, node: &'a Value) {
        self.nodes.push(node);
        for branches in ["allOf", "anyOf", "oneOf"] {
            node.get(branches).and_then(Value::as_array).into_iter().flatten().for_each(|branch| self.add(branch));
        }
    }

    /// What the shape says about the key of a table.
    pub(super) fn child(&self, key: &str) -> Child<'a> {
        let mut found = Vec::new();
        let mut open = false;
        for node in &self.nodes {
            let listed = node.get("properties").and_then(|p| p.get(key));
            match (listed, node.get("additionalProperties")) {
                (Some(property), _) => found.push(property),
                (None, Some(Value::Bool(allowed))) => open |= allowed,
                (None, Some(any)) => found.push(any),
                (None, None) => open |= takes_any_key(node),
            }
        }
        match (found.is_empty(), open) {
            (false, _) => Child::Known(Self::spread(found)),
            (true, true) => Child::Open,
            (true, false) => Child::Unknown,
        }
    }

    /// The shape of the elements of a list of this shape.
    pub(super) fn items(&self) -> Shape<'a> {
        Self::spread(self.nodes.iter().filter_map(|node| node.get("items")))
    }

    /// The listed keys, in the order of the schema.
    pub(super) fn keys(&self) -> Vec<&'a str> {
        let mut keys: Vec<&str> = Vec::new();
        for name in self.properties().map(|(name, _)| name) {
            if !keys.contains(&name) {
                keys.push(name);
            }
        }
        keys
    }

    /// The listed properties of every branch.
    pub(super) fn properties(&self) -> impl Iterator<Item = (&'a str, &'a Value)> + use<'a, '_> {
        let tables = self.nodes.iter().filter_map(|node| node.get("properties")?.as_object());
        tables.flatten().map(|(name, property)| (name.as_str(), property))
    }

    /// Whether the schema allows values of this JSON type.
    pub(super) fn allows(&self, json_type: &str) -> bool {
        self.nodes.iter().any(|node| match node.get("type") {
            Some(Value::String(one)) => one == json_type,
            Some(Value::Array(several)) => several.iter().any(|t| t == json_type),
            _ => false,
        })
    }

    /// Whether any branch has `format: format`.
    pub(super) fn has_format(&self, format: &str) -> bool {
        self.nodes.iter().any(|node| node.get("format").is_some_and(|f| f == format))
    }

    /// The keys of `value` that the schema does not allow; keys inside them are not listed.
    pub(super) fn unknown_keys(&self, value: &Value) -> Vec<Path> {
        let mut unknown = Vec::new();
        self.collect_unknown(value, &mut Vec::new(), &mut unknown);
        unknown
    }

    fn collect_unknown(&self, value: &Value, path: &mut Path, unknown: &mut Vec<Path>) {
        for (key, value) in value.as_object().into_iter().flatten() {
            path.push(key.clone());
            match self.child(key) {
                Child::Known(shape) => shape.collect_unknown(value, path, unknown),
                Child::Open => {}
                Child::Unknown => unknown.push(path.clone()),
            }
            path.pop();
        }
    }

    /// The defaults in the schema, including those of nested tables.
    pub(super) fn defaults(&self) -> Table {
        let mut defaults = Table::new();
        for (key, property) in self.properties() {
            if let Some(default) = property.get("default") {
                defaults.insert(key.to_owned(), default.clone());
            } else if property.get("properties").is_some() {
                let inner = Self::of(property).defaults();
                if !inner.is_empty() {
                    defaults.insert(key.to_owned(), Value::Object(inner));
                }
            }
        }
        defaults
    }
}

/// Whether a schema without `properties` and `additionalProperties` allows tables with any keys.
fn takes_any_key(node: &Value) -> bool {
    match node {
        Value::Bool(anything) => *anything,
        _ => {
            let says_more = ["properties", "allOf", "anyOf", "oneOf", "const", "enum"];
            node.get("type").is_none_or(|t| t == "object") && !says_more.iter().any(|k| node.get(k).is_some())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_known_through_options_and_branches() {
        let root = json!({
            "properties": {
                "tls": { "anyOf": [
                    { "type": "object", "properties": { "cert": { "type": "string" } } }, { "type": "null" },
                ] },
                "fields": { "type": "object", "additionalProperties": { "type": "string" } },
                "anything": true,
            },
        });
        let value = json!({
            "tls": { "cert": "a", "kert": "b" }, "fields": { "prompt": "q" }, "anything": { "goes": 1 }, "other": 1,
        });
        let unknown = Shape::of(&root).unknown_keys(&value);
        assert_eq!(unknown, [vec!["tls".to_owned(), "kert".to_owned()], vec!["other".to_owned()]]);
    }

    #[test]
    fn defaults_of_tables_inside_are_found() {
        let root = json!({
            "properties": {
                "a": { "default": 1 }, "b": { "type": "integer" },
                "inner": { "properties": { "c": { "default": [2] } } },
            },
        });
        assert_eq!(Value::Object(Shape::of(&root).defaults()), json!({ "a": 1, "inner": { "c": [2] } }));
    }
}
