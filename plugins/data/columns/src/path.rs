//! Values by the name of their column, or by a path of names into it: `turn.question`, `answers.0.text`.

use mdt_plugin_api::serde_json::{Map, Value};

/// The value of that name; null counts as missing. A column whose own name has dots takes precedence over a path.
pub(super) fn get<'a>(row: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let found = match (row.get(name), name.split_once('.')) {
        (None, Some((first, rest))) => within(row.get(first)?, rest),
        (column, _) => column,
    };
    found.filter(|value| !value.is_null())
}

/// The same, taken out of the row.
pub(super) fn take(row: &mut Map<String, Value>, name: &str) -> Option<Value> {
    match (row.shift_remove(name), name.split_once('.')) {
        // Several columns may be found in one object, so it stays.
        (None, Some(_)) => get(row, name).cloned(),
        (column, _) => column.filter(|value| !value.is_null()),
    }
}

fn within<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, name| match value {
        Value::Object(entries) => entries.get(name),
        Value::Array(items) => items.get(name.parse::<usize>().ok()?),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use mdt_plugin_api::serde_json::json;

    use super::*;

    #[test]
    fn a_path_leads_through_objects_and_arrays() {
        let Value::Object(mut row) = json!({
            "a": {"b": [{"c": 1}, {"c": 2}], "null": null}, "a.b.0.c": 3, "text": "t", "none": null
        }) else {
            panic!("an object")
        };
        for (name, expected) in [
            ("a.b.1.c", Some(json!(2))),
            ("a.b.0.c", Some(json!(3))),
            ("text", Some(json!("t"))),
            ("a.b.2.c", None),
            ("a.b.c", None),
            ("a.null", None),
            ("none", None),
            ("text.0", None),
            ("missing.b", None),
        ] {
            assert_eq!(get(&row, name).cloned(), expected, "{name}");
            assert_eq!(take(&mut row, name), expected, "{name}");
        }
        assert!(!row.contains_key("text") && row.contains_key("a"));
    }
}
