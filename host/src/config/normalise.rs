//! Giving all layers the same form before they are merged.
//!
//! A string stands for a table: `optimizer = "adamw"` is `{ use = "adamw" }`, and so for every section that chooses a
//! component, except that `model = "dir"` is `{ path = "dir" }`. `model.adapter = "lora"` is `{ kind = "lora" }`. In `data.train`
//! and `data.eval` a string stands for a list of one, and so in the model's lists of names and in `observers`, whose elements are
//! tables as well. A section that is empty in YAML is an empty
//! table.

use super::components::SECTIONS;
use super::observers;
use super::value::{Table, describe};
use serde_json::{Value, json};

/// Sections without a component.
const PLAIN_SECTIONS: [&str; 3] = ["checkpoint", "metrics", "plugins"];

/// Normalises a table; doing it twice has no further effect. The error is the key of a section that is not a table and
/// does not stand for one, and what is wrong with it.
pub(super) fn normalise(mut table: Table) -> Result<Table, (String, String)> {
    for (key, value) in &mut table {
        let chooses = SECTIONS.iter().any(|s| s.name == key);
        if !chooses && !PLAIN_SECTIONS.contains(&key.as_str()) {
            continue;
        }
        match value {
            Value::Object(_) => {}
            Value::Null => *value = json!({}),
            Value::String(text) if chooses => {
                let short_for = if key == "model" { "path" } else { "use" };
                *value = json!({ short_for: std::mem::take(text) });
            }
            other => {
                let expected = if chooses { "a table or a string" } else { "a table" };
                return Err((key.clone(), format!("`{key}` is {}, where {expected} is expected", describe(other))));
            }
        }
    }
    if let Some(list) = table.get_mut(observers::NAME) {
        if let Value::String(_) = list {
            *list = json!([list.take()]);
        }
        for observer in list.as_array_mut().into_iter().flatten() {
            if let Value::String(_) = observer {
                *observer = json!({ "use": observer.take() });
            }
        }
    }
    if let Some(Value::Object(data)) = table.get_mut("data") {
        lists_of_one(data, &["train", "eval"]);
    }
    if let Some(Value::Object(model)) = table.get_mut("model") {
        lists_of_one(model, &["freeze", "train"]);
        if let Some(adapter @ Value::String(_)) = model.get_mut("adapter") {
            *adapter = json!({ "kind": adapter.take() });
        }
        if let Some(Value::Object(adapter)) = model.get_mut("adapter") {
            lists_of_one(adapter, &["targets", "modules_to_save"]);
        }
    }
    Ok(table)
}

/// In these keys a string stands for a list of one.
fn lists_of_one(table: &mut Table, keys: &[&str]) {
    for key in keys {
        if let Some(list @ Value::String(_)) = table.get_mut(*key) {
            *list = json!([list.take()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(value: Value) -> Table {
        value.as_object().expect("a table").clone()
    }

    #[test]
    fn a_string_stands_for_the_table_that_chooses_it() {
        let short =
            table(json!({ "optimizer": "lion", "scheduler": "constant", "model": "dir", "data": { "train": "a" } }));
        let long = table(json!({
            "optimizer": { "use": "lion" }, "scheduler": { "use": "constant" },
            "model": { "path": "dir" }, "data": { "train": ["a"] },
        }));
        assert_eq!(normalise(short).unwrap(), long);
    }

    #[test]
    fn a_section_that_is_no_table_says_what_was_expected() {
        let (key, message) = normalise(table(json!({ "checkpoint": "auto" }))).unwrap_err();
        assert_eq!(
            (&*key, &*message),
            ("checkpoint", "`checkpoint` is the string \"auto\", where a table is expected")
        );
        assert!(normalise(table(json!({ "optimizer": 3 }))).is_err());
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-z]{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("use|path|train|eval|[a-z]{1,3}", inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn normalising_twice_is_normalising_once(
            sections in prop::collection::btree_map("model|data|optimizer|comm|seed|metrics", any_value(), 0..5),
        ) {
            if let Ok(once) = normalise(sections.into_iter().collect()) {
                prop_assert_eq!(normalise(once.clone()), Ok(once));
            }
        }
    }
}
