//! The schemas that `config!` declares, and the structs that belong to them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::Configurable;

crate::config! {
    /// How rows are "joined".
    pub enum Packing {
        /// They are not.
        Off = "off",
        /// Where they fit
        /// without being cut.
        BestFit = "best_fit",
    }
}

crate::config! {
    /// A table inside.
    #[derive(PartialEq)]
    pub struct Inner {
        /// Shown.
        column: String = "a\"b\\c\n".into(),
        /// Not shown.
        #[serde(skip_serializing_if = "Option::is_none")]
        hidden: Option<String> = None,
    }
}

crate::config! {
    /// Every type.
    pub struct Every {
        /// A fraction,
        /// with `code` and a "quote" \ and an umlaut: ä.
        ///
        /// A second paragraph.
        fraction: f64 [0.0..1.0] = 1e-8,
        /// Above nothing.
        above: f32 [above 0.0..=86_400.0] = 0.1f32,
        /// Signed.
        signed: i32 [-5..] = -1_000,
        unsigned: u64 = 7,
        length: usize [1..] = 2048,
        /// A byte.
        byte: u8 = 1,
        yes: bool = true,
        letter: char = '\'',
        path: PathBuf = PathBuf::new(),
        other_path: PathBuf = PathBuf::from("a/b"),
        list: Vec<String> = vec!["a, b".to_owned(), "c".into()],
        empty: Vec<u64> = Vec::new(),
        map: BTreeMap<String, f64> = BTreeMap::new(),
        anything: BTreeMap<String, Value> = BTreeMap::default(),
        maybe: Option<u64> = Some(3),
        packing: Packing = Packing::BestFit,
        maybe_packing: Option<Packing> = None,
        /// Its own words.
        inner: Inner = Inner::default(),
        inners: Option<Vec<Inner>> = None,
    }
}

fn schema<T: Configurable>() -> Value {
    serde_json::from_str(&T::JSON.to_string()).unwrap_or_else(|error| panic!("{error}: {}", T::JSON))
}

#[test]
fn every_type_has_its_schema_with_descriptions_ranges_and_defaults() {
    let schema = schema::<Every>();
    let inner = json!({
        "description": "A table inside.", "type": "object", "additionalProperties": false,
        "properties": {
            "column": { "description": "Shown.", "type": "string", "default": "a\"b\\c\n" },
            "hidden": { "description": "Not shown.", "type": ["string", "null"] },
        },
    });
    let mut with_own_words = inner.clone();
    with_own_words["description"] = json!("Its own words.");
    with_own_words["default"] = json!({ "column": "a\"b\\c\n" });
    let choices = json!([
        { "description": "They are not.", "type": "string", "const": "off" },
        { "description": "Where they fit\nwithout being cut.", "type": "string", "const": "best_fit" },
    ]);
    let doc = "How rows are \"joined\".";
    let expected = json!({
        "fraction": {
            "description": "A fraction,\nwith `code` and a \"quote\" \\ and an umlaut: ä.\n\nA second paragraph.",
            "type": "number", "minimum": 0.0, "exclusiveMaximum": 1.0, "format": "double", "default": 1e-8,
        },
        "above": {
            "description": "Above nothing.",
            "type": "number", "exclusiveMinimum": 0.0, "maximum": 86400.0, "format": "float", "default": 0.1,
        },
        "signed": { "description": "Signed.", "type": "integer", "minimum": -5, "format": "int32", "default": -1000 },
        "unsigned": { "type": "integer", "minimum": 0, "format": "uint64", "default": 7 },
        "length": { "type": "integer", "minimum": 1, "format": "uint", "default": 2048 },
        "byte": {
            "description": "A byte.", "type": "integer", "minimum": 0, "maximum": 255, "format": "uint8", "default": 1,
        },
        "yes": { "type": "boolean", "default": true },
        "letter": { "type": "string", "minLength": 1, "maxLength": 1, "default": "'" },
        "path": { "type": "string", "default": "" },
        "other_path": { "type": "string", "default": "a/b" },
        "list": { "type": "array", "items": { "type": "string" }, "default": ["a, b", "c"] },
        "empty": { "type": "array", "items": { "type": "integer", "minimum": 0, "format": "uint64" }, "default": [] },
        "map": { "type": "object", "additionalProperties": { "type": "number", "format": "double" }, "default": {} },
        "anything": { "type": "object", "additionalProperties": {}, "default": {} },
        "maybe": { "type": ["integer", "null"], "minimum": 0, "format": "uint64", "default": 3 },
        "packing": { "description": doc, "oneOf": choices, "default": "best_fit" },
        "maybe_packing": {
            "description": doc, "default": null,
            "anyOf": [{ "description": doc, "oneOf": choices }, { "type": "null" }],
        },
        "inner": with_own_words,
        "inners": { "type": ["array", "null"], "items": inner, "default": null },
    });
    for (key, expected) in expected.as_object().unwrap() {
        assert_eq!(&schema["properties"][key], expected, "{key}");
    }
    assert_eq!(
        schema["properties"].as_object().map(serde_json::Map::len),
        expected.as_object().map(serde_json::Map::len)
    );
    assert_eq!((&schema["description"], &schema["additionalProperties"]), (&json!("Every type."), &json!(false)));
}

#[test]
fn the_defaults_in_the_schema_are_those_of_the_struct() {
    let schema = schema::<Every>();
    let stated = schema["properties"].as_object().unwrap().iter();
    let stated: serde_json::Map<_, _> =
        stated.map(|(key, property)| (key.clone(), property["default"].clone())).collect();
    let read: Every = serde_json::from_value(Value::Object(stated)).unwrap();
    assert_eq!(format!("{read:?}"), format!("{:?}", Every::default()));
    assert_eq!(serde_json::to_value(Inner::default()).unwrap(), schema["properties"]["inner"]["default"]);
    assert_eq!(Packing::default(), Packing::Off);
}

#[test]
fn an_unknown_key_is_an_error() {
    let error = serde_json::from_value::<Inner>(json!({ "colum": "x" })).unwrap_err().to_string();
    assert!(error.contains("colum"), "{error}");
}
