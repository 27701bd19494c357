//! Checking values against a JSON Schema, and describing what the schema allows.
//!
//! Types, enumerations, bounds and lengths are checked here, so that the error names the file and the key. A component
//! checks everything else when it is created.
//!
//! This is not the crate `jsonschema`: its errors do not say what the schema allows, so `expected` would remain, and it
//! would bring 24 crates for 100 lines of checking.

use super::schema::{Child, Shape};
use super::value::Path;
use serde_json::{Number, Value};

/// A value that its schema does not allow.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Mismatch {
    pub(super) path: Path,
    pub(super) expected: String,
    /// The value there; `None` if a required value is missing.
    pub(super) found: Option<Value>,
}

/// Checks `value` at `path` against `node`.
pub(super) fn check(node: &Value, value: &Value, path: &mut Path) -> Result<(), Mismatch> {
    for branch in node.get("allOf").and_then(Value::as_array).into_iter().flatten() {
        check(branch, value, path)?;
    }
    for choice in ["anyOf", "oneOf"] {
        if let Some(branches) = node.get(choice).and_then(Value::as_array) {
            check_branches(node, branches, value, path)?;
        }
    }
    if !plain_part_allows(node, value) {
        return Err(mismatch(node, value, path));
    }
    if let Some(item) = node.get("items") {
        for (index, value) in value.as_array().into_iter().flatten().enumerate() {
            path.push(index.to_string());
            check(item, value, path)?;
            path.pop();
        }
    }
    check_table(node, value, path)
}

fn check_table(node: &Value, value: &Value, path: &mut Path) -> Result<(), Mismatch> {
    let Some(table) = value.as_object() else {
        return Ok(());
    };
    for key in node.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if !table.contains_key(key) {
            path.push(key.to_owned());
            let expected = node["properties"].get(key).map_or("a value".to_owned(), expected);
            return Err(Mismatch { path: path.clone(), expected, found: None });
        }
    }
    for (key, value) in table {
        let property = node.get("properties").and_then(|p| p.get(key));
        if let Some(property) = property.or_else(|| node.get("additionalProperties")) {
            path.push(key.clone());
            check(property, value, path)?;
            path.pop();
        }
    }
    Ok(())
}

/// One branch must allow the value. If exactly one branch fails deeper inside the value, its error is the useful one.
fn check_branches(node: &Value, branches: &[Value], value: &Value, path: &mut Path) -> Result<(), Mismatch> {
    let depth = path.len();
    let mut deeper = Vec::new();
    for branch in branches {
        match check(branch, value, path) {
            Ok(()) => return Ok(()),
            Err(mismatch) => {
                path.truncate(depth);
                deeper.extend((mismatch.path.len() > depth).then_some(mismatch));
            }
        }
    }
    match <[Mismatch; 1]>::try_from(deeper) {
        Ok([only]) => Err(only),
        Err(_) => Err(mismatch(node, value, path)),
    }
}

fn mismatch(node: &Value, value: &Value, path: &Path) -> Mismatch {
    Mismatch { path: path.clone(), expected: expected(node), found: Some(value.clone()) }
}

/// Whether the schema allows the value, without its branches, references and nested schemas.
fn plain_part_allows(node: &Value, value: &Value) -> bool {
    let type_allows = match node.get("type") {
        Some(Value::String(name)) => has_type(value, name),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).any(|name| has_type(value, name)),
        _ => node != &Value::Bool(false),
    };
    let listed = |list: Option<&Vec<Value>>| list.is_none_or(|list| list.contains(value));
    type_allows
        && node.get("const").is_none_or(|only| only == value)
        && listed(node.get("enum").and_then(Value::as_array))
        && value.as_number().is_none_or(|n| in_bounds(node, n))
        && value.as_str().is_none_or(|s| has_length(node, "Length", s.chars().count()))
        && value.as_array().is_none_or(|a| has_length(node, "Items", a.len()))
}

fn has_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        _ => true,
    }
}

fn in_bounds(node: &Value, number: &Number) -> bool {
    let Some(number) = number.as_f64() else {
        return true;
    };
    let (low, high) = bounds(node);
    let exclusive = |keyword| node.get(keyword).and_then(Value::as_f64);
    low.and_then(|l| l.as_f64()).is_none_or(|low| number >= low)
        && high.and_then(|h| h.as_f64()).is_none_or(|high| number <= high)
        && exclusive("exclusiveMinimum").is_none_or(|low| number > low)
        && exclusive("exclusiveMaximum").is_none_or(|high| number < high)
}

/// The smallest and the largest number allowed. For integer types there may be only their `format`.
fn bounds(node: &Value) -> (Option<Number>, Option<Number>) {
    let (format_low, format_high) = match node.get("format").and_then(Value::as_str) {
        Some("int8") => (Some(i8::MIN.into()), Some(i8::MAX.into())),
        Some("int16") => (Some(i16::MIN.into()), Some(i16::MAX.into())),
        Some("int32") => (Some(i32::MIN.into()), Some(i32::MAX.into())),
        Some("uint8") => (None, Some(u8::MAX.into())),
        Some("uint16") => (None, Some(u16::MAX.into())),
        Some("uint32") => (None, Some(u32::MAX.into())),
        Some("uint64") => (None, Some(u64::MAX.into())),
        _ => (None, None),
    };
    let stated = |keyword| node.get(keyword).and_then(Value::as_number).cloned();
    (stated("minimum").or(format_low), stated("maximum").or(format_high))
}

fn has_length(node: &Value, suffix: &str, length: usize) -> bool {
    let bound = |prefix: &str| node.get(format!("{prefix}{suffix}")).and_then(Value::as_u64);
    bound("min").is_none_or(|least| length as u64 >= least) && bound("max").is_none_or(|most| length as u64 <= most)
}

/// What `node` allows, as text: `an integer of at least 1`.
pub(super) fn expected(node: &Value) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut constants: Vec<String> = Vec::new();
    for node in Shape::of(node).nodes() {
        if let Some(only) = node.get("const") {
            constants.push(only.to_string());
        } else if let Some(list) = node.get("enum").and_then(Value::as_array) {
            constants.extend(list.iter().filter(|v| !v.is_null()).map(Value::to_string));
        } else {
            let names = match node.get("type") {
                Some(Value::String(name)) => vec![name.as_str()],
                Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
                _ => Vec::new(),
            };
            words.extend(names.iter().filter(|name| **name != "null").map(|name| in_words(node, name)));
        }
    }
    if constants.len() == 1 {
        words.push(constants.remove(0));
    } else if !constants.is_empty() {
        words.push(format!("one of {}", constants.join(", ")));
    }
    words.dedup();
    if words.is_empty() { "another value".into() } else { words.join(" or ") }
}

fn in_words(node: &Value, json_type: &str) -> String {
    match json_type {
        "boolean" => "true or false".into(),
        "object" => "a table".into(),
        "string" if node.get("minLength").is_some() => "a string that is not empty".into(),
        "string" => "a string".into(),
        "array" => match node.get("items") {
            Some(item) => format!("a list, each element {}", expected(item)),
            None => "a list".into(),
        },
        number => {
            let article = if number == "integer" { "an integer" } else { "a number" };
            let (low, high) = bounds(node);
            let stated = |key| node.get(key).map(|value| value.to_string());
            let low = low.map(|low| format!("of at least {low}"));
            let low = low.or_else(|| stated("exclusiveMinimum").map(|low| format!("above {low}")));
            let below = || stated("exclusiveMaximum").map(|high| format!("below {high}"));
            let high = high.map(|high| format!("of at most {high}")).or_else(below);
            match (low, high) {
                (Some(low), Some(high)) => match (low.strip_prefix("of at least "), high.strip_prefix("of at most ")) {
                    (Some(low), Some(high)) => format!("{article} from {low} to {high}"),
                    _ => format!("{article} {low} and {high}"),
                },
                (Some(one), None) | (None, Some(one)) => format!("{article} {one}"),
                (None, None) => article.into(),
            }
        }
    }
}

/// Converts numbers to the type in their schema, so that equal settings are equal JSON: for a real number `1` becomes
/// `1.0`, for an integer `1e3` becomes `1000`, and the default of an f32 becomes its shortest decimal.
pub(super) fn settle_numbers(shape: &Shape<'_>, value: &mut Value) {
    match value {
        Value::Object(table) => {
            for (key, value) in table {
                if let Child::Known(shape) = shape.child(key) {
                    settle_numbers(&shape, value);
                }
            }
        }
        Value::Array(items) => {
            let shape = shape.items();
            items.iter_mut().for_each(|item| settle_numbers(&shape, item));
        }
        Value::Number(number) => {
            let settled = match (shape.allows("integer"), shape.allows("number"), number.as_f64()) {
                (false, true, Some(real)) if shape.has_format("float") => shortest_f32(real),
                (false, true, Some(real)) => Number::from_f64(real),
                (true, false, Some(real)) if number.is_f64() && real.fract() == 0.0 && real.abs() < 1e15 => {
                    Some(Number::from(real as i64))
                }
                _ => None,
            };
            if let Some(settled) = settled {
                *number = settled;
            }
        }
        _ => {}
    }
}

/// The f64 whose decimal form is the shortest that reads back as the same f32.
fn shortest_f32(real: f64) -> Option<Number> {
    (real as f32).to_string().parse().ok().and_then(Number::from_f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn wrong(schema: Value, value: Value) -> Option<(String, String)> {
        let mismatch = check(&schema, &value, &mut Path::new()).err()?;
        Some((mismatch.path.join("."), mismatch.expected))
    }

    #[test]
    fn every_keyword_that_is_read_refuses_something_and_says_what_was_expected() {
        let cases = [
            (json!({ "type": "integer", "minimum": 1 }), json!(0), "an integer of at least 1"),
            (
                json!({ "type": "integer", "format": "uint32", "minimum": 0 }),
                json!(1u64 << 32),
                "an integer from 0 to 4294967295",
            ),
            (json!({ "type": "number", "minimum": 0.0, "maximum": 1.0 }), json!(1.5), "a number from 0.0 to 1.0"),
            (json!({ "type": "number", "exclusiveMinimum": 0 }), json!(0), "a number above 0"),
            (
                json!({ "type": "number", "minimum": 0.0, "exclusiveMaximum": 1.0 }),
                json!(1.0),
                "a number of at least 0.0 and below 1.0",
            ),
            (json!({ "type": ["string", "null"] }), json!(1), "a string"),
            (json!({ "type": "string", "minLength": 1 }), json!(""), "a string that is not empty"),
            (json!({ "type": "boolean" }), json!("yes"), "true or false"),
            (json!({ "enum": ["a", "b"] }), json!("c"), "one of \"a\", \"b\""),
            (json!({ "oneOf": [{ "const": "a" }, { "const": "b" }] }), json!("c"), "one of \"a\", \"b\""),
            (json!({ "type": "array", "items": { "type": "string" } }), json!("c"), "a list, each element a string"),
        ];
        for (schema, value, expected) in cases {
            assert_eq!(wrong(schema.clone(), value), Some((String::new(), expected.to_owned())), "{schema}");
        }
    }

    #[test]
    fn what_is_wrong_inside_a_table_or_a_list_is_named_by_its_path() {
        let schema = json!({
            "properties": { "tls": { "anyOf": [
                { "type": "object", "required": ["cert"], "properties": {
                    "cert": { "type": "string" }, "ports": { "type": "array", "items": { "type": "integer" } } } },
                { "type": "null" },
            ] } },
        });
        assert_eq!(wrong(schema.clone(), json!({ "tls": null })), None);
        let inside = wrong(schema.clone(), json!({ "tls": { "cert": "c", "ports": [1, "2"] } }));
        assert_eq!(inside, Some(("tls.ports.1".into(), "an integer".into())));
        assert_eq!(wrong(schema, json!({ "tls": {} })), Some(("tls.cert".into(), "a string".into())));
    }

    proptest! {
        #[test]
        fn settling_numbers_keeps_their_value_and_settles_once(real in -1e6f64..1e6, whole in -1000i64..1000) {
            let schema = json!({ "properties": { "r": { "type": "number" }, "i": { "type": "integer" } } });
            let mut once = json!({ "r": whole, "i": whole as f64 });
            settle_numbers(&Shape::of(&schema), &mut once);
            prop_assert_eq!(&once, &json!({ "r": whole as f64, "i": whole }));
            let mut same = json!({ "r": real, "i": real });
            settle_numbers(&Shape::of(&schema), &mut same);
            prop_assert_eq!(same["r"].as_f64(), Some(real));
        }

        #[test]
        fn an_f32_default_is_written_as_its_author_wrote_it(real in any::<f32>().prop_filter("finite", |r| r.is_finite())) {
            let schema = json!({ "type": "number", "format": "float" });
            let mut value = json!(f64::from(real));
            settle_numbers(&Shape::of(&schema), &mut value);
            prop_assert_eq!(value.as_f64().unwrap() as f32, real);
            prop_assert!(value.to_string().len() <= json!(f64::from(real)).to_string().len());
        }
    }
}
