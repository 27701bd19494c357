//! Reading a JSON Schema: the keys of a table and their defaults.
//!
//! It supports the part of draft 2020-12 that derived schemas use: `properties`, `additionalProperties`, `$ref` into
//! `$defs`, and `allOf`, `anyOf`, `oneOf`, whose branches are joined. One rule is stricter than the draft: a schema that
//! lists `properties` allows no others unless it says so, because a misspelt key must be an error.

use super::value::{Path, Table};
use serde_json::Value;

/// The depth limit for defaults: a schema that is nested deeper is taken to contain itself.
const DEPTH: usize = 8;

/// All schemas that apply to a value: `$ref` followed, branches listed.
#[derive(Debug, Clone)]
pub(super) struct Shape<'a> {
    root: &'a Value,
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
    /// The shape that `root` describes.
    pub(super) fn of(root: &'a Value) -> Self {
        Self::spread(root, [root])
    }

    /// The shape that `node` describes. Its references are looked up in `root`.
    pub(super) fn within(root: &'a Value, node: &'a Value) -> Self {
        Self::spread(root, [node])
    }

    /// The schemas.
    pub(super) fn nodes(&self) -> &[&'a Value] {
        &self.nodes
    }

    fn spread(root: &'a Value, nodes: impl IntoIterator<Item = &'a Value>) -> Self {
        let mut shape = Shape { root, nodes: Vec::new() };
        for node in nodes {
            shape.add(node);
        }
        shape
    }

    fn add(&mut self, node: &'a Value) {
        if self.nodes.iter().any(|known| std::ptr::eq(*known, node)) {
            return;
        }
        self.nodes.push(node);
        if let Some(target) = node.get("$ref").and_then(|r| target(self.root, r)) {
            self.add(target);
        }
        for branches in ["allOf", "anyOf", "oneOf"] {
            for branch in node.get(branches).and_then(Value::as_array).into_iter().flatten() {
                self.add(branch);
            }
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
            (false, _) => Child::Known(Self::spread(self.root, found)),
            (true, true) => Child::Open,
            (true, false) => Child::Unknown,
        }
    }

    /// The shape of the elements of a list of this shape.
    pub(super) fn items(&self) -> Shape<'a> {
        Self::spread(self.root, self.nodes.iter().filter_map(|node| node.get("items")))
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
        self.defaults_within(DEPTH)
    }

    fn defaults_within(&self, depth: usize) -> Table {
        let mut defaults = Table::new();
        for (key, property) in self.properties() {
            if let Some(default) = property.get("default") {
                defaults.insert(key.to_owned(), default.clone());
            } else if depth > 0 && (property.get("properties").is_some() || property.get("$ref").is_some()) {
                let inner = Self::spread(self.root, [property]).defaults_within(depth - 1);
                if !inner.is_empty() {
                    defaults.insert(key.to_owned(), Value::Object(inner));
                }
            }
        }
        defaults
    }
}

/// The schema that a reference names.
pub(super) fn target<'a>(root: &'a Value, reference: &Value) -> Option<&'a Value> {
    root.pointer(reference.as_str()?.strip_prefix('#')?)
}

/// Whether a schema without `properties` and `additionalProperties` allows tables with any keys.
fn takes_any_key(node: &Value) -> bool {
    match node {
        Value::Bool(anything) => *anything,
        _ => {
            let says_more = ["properties", "$ref", "allOf", "anyOf", "oneOf", "const", "enum"];
            node.get("type").is_none_or(|t| t == "object") && !says_more.iter().any(|k| node.get(k).is_some())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_known_through_references_options_and_branches() {
        let root = json!({
            "properties": {
                "tls": { "anyOf": [{ "$ref": "#/$defs/Tls" }, { "type": "null" }] },
                "fields": { "type": "object", "additionalProperties": { "type": "string" } },
                "anything": true,
            },
            "$defs": { "Tls": { "type": "object", "properties": { "cert": { "type": "string" } } } },
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
                "inner": { "$ref": "#/$defs/Inner" },
            },
            "$defs": { "Inner": { "properties": { "c": { "default": [2] } } } },
        });
        assert_eq!(Value::Object(Shape::of(&root).defaults()), json!({ "a": 1, "inner": { "c": [2] } }));
    }

    #[test]
    fn a_schema_that_refers_to_itself_ends() {
        let root = json!({ "$ref": "#", "properties": { "next": { "$ref": "#" } } });
        assert_eq!(Shape::of(&root).keys(), ["next"]);
        assert!(Shape::of(&root).unknown_keys(&json!({ "next": { "next": { "x": 1 } } })).len() == 1);
    }
}
