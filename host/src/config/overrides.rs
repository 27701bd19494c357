//! Layers that override files: environment variables, `--set`, and command-line options that stand for a key.

use super::layer::Layer;
use super::origin::Origin;
use super::value::{DEPTH, Table, parse_toml};
use crate::exit::Failure;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Variables that look like configuration keys but are not: where plugins are searched, what is logged, and the name and
/// the secret that the ranks of a job share.
const RESERVED: [&str; 4] = ["MDT_PLUGIN_PATH", "MDT_LOG", "MDT_JOB_ID", "MDT_JOB_TOKEN"];

/// Prefixes of further such variables.
const RESERVED_PREFIXES: [&str; 2] = ["MDT_HOST", "MDT_LAUNCH"];

/// An option of a subcommand that stands for a key: `--model DIR` for `model.path`.
#[derive(Debug, Clone, PartialEq)]
pub struct Flag {
    /// The option, as the user wrote it.
    pub name: String,
    /// The key, its parts joined by dots.
    pub key: String,
    /// The value it is given.
    pub value: Value,
}

/// One layer for each variable `MDT_A__B` (the key `a.b`).
pub(super) fn environment(variables: &[(String, String)]) -> Result<Vec<Layer>, Failure> {
    let mut layers = Vec::new();
    let mut variables: Vec<_> = variables.iter().filter(|(name, _)| is_key(name)).collect();
    variables.sort();
    for (name, text) in variables {
        let origin = Origin::Environment(name.clone());
        let path: Vec<String> = name["MDT_".len()..].split("__").map(str::to_lowercase).collect();
        layers.push(layer(origin, &path, value(text))?);
    }
    Ok(choices_first(layers))
}

fn is_key(name: &str) -> bool {
    name.starts_with("MDT_")
        && !RESERVED.contains(&name)
        && !RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// One layer for each `--set key=value`.
pub(super) fn set(texts: &[String]) -> Result<Vec<Layer>, Failure> {
    let mut layers = Vec::new();
    for text in texts {
        let malformed = || {
            Failure::configuration(format!("`--set {text}` is not of the form key=value"))
                .help("write it like `--set optimizer.learning_rate=2e-5`")
        };
        let (key, setting) = text.split_once('=').ok_or_else(malformed)?;
        let path = key_path(key).ok_or_else(malformed)?;
        layers.push(layer(Origin::Set(path.join(".")), &path, value(setting))?);
    }
    Ok(choices_first(layers))
}

/// One layer for each option.
pub(super) fn flags(flags: &[Flag]) -> Result<Vec<Layer>, Failure> {
    let layer_of = |flag: &Flag| {
        let path: Vec<String> = flag.key.split('.').map(str::to_owned).collect();
        layer(Origin::Flag(flag.name.clone()), &path, flag.value.clone())
    };
    flags.iter().map(layer_of).collect()
}

/// A layer with one value.
pub(super) fn layer(origin: Origin, path: &[String], value: Value) -> Result<Layer, Failure> {
    if path.len() > DEPTH {
        let text = origin.to_string();
        let shown: String = text.chars().take(80).collect();
        return Err(Failure::configuration(format!("a key has more than {DEPTH} parts")).at(format!("{shown}…")));
    }
    let nested = path.iter().rev().fold(value, |inner, key| json!({ key: inner }));
    let table = match nested {
        Value::Object(table) => table,
        _ => Table::new(),
    };
    Layer::new(origin, table, BTreeMap::new())
}

/// Within one source, choices of components come first: other keys are meant for the chosen component.
fn choices_first(mut layers: Vec<Layer>) -> Vec<Layer> {
    layers.sort_by_key(|layer| !layer.only_chooses());
    layers
}

/// The value of a text that is TOML, or else the text itself. A number that no setting can have may be part of a name.
fn value(text: &str) -> Value {
    parse_toml(text).and_then(Result::ok).unwrap_or_else(|| text.into())
}

/// The parts of a TOML key; parts with dots in them can be quoted.
fn key_path(key: &str) -> Option<Vec<String>> {
    if key.contains(['\n', '\r', '[']) {
        return None;
    }
    let mut table: toml::Table = toml::from_str(&format!("{key} = 0")).ok()?;
    let mut path = Vec::new();
    loop {
        let (key, value) = std::mem::take(&mut table).into_iter().next()?;
        path.push(key);
        match value {
            toml::Value::Table(inner) => table = inner,
            _ => return Some(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn only(layers: Vec<Layer>) -> Value {
        assert_eq!(layers.len(), 1);
        Value::Object(layers.into_iter().next().expect("one layer").values)
    }

    fn variable(name: &str, value: &str) -> Vec<(String, String)> {
        vec![(name.into(), value.into())]
    }

    #[test]
    fn two_underscores_separate_the_parts_of_a_key() {
        let layers = environment(&variable("MDT_OPTIMIZER__LEARNING_RATE", "2e-5")).unwrap();
        assert_eq!(only(layers), json!({ "optimizer": { "learning_rate": 2e-5 } }));
    }

    #[test]
    fn variables_of_other_purpose_are_no_keys() {
        let variables = [
            "MDT_PLUGIN_PATH",
            "MDT_LOG",
            "MDT_JOB_ID",
            "MDT_JOB_TOKEN",
            "MDT_HOST",
            "MDT_HOST_X",
            "MDT_LAUNCH_ID",
            "PATH",
            "XMDT_SEED",
        ];
        for name in variables {
            assert!(environment(&variable(name, "1")).unwrap().is_empty(), "{name}");
        }
    }

    #[test]
    fn a_value_is_toml_where_it_can_be_and_text_where_it_cannot() {
        assert_eq!(value("3"), json!(3));
        assert_eq!(value("18446744073709551615"), json!(u64::MAX));
        assert_eq!(value("2e-5"), json!(2e-5));
        assert_eq!(value("true"), json!(true));
        assert_eq!(value("[\"*.bias\", 'b']"), json!(["*.bias", "b"]));
        assert_eq!(value("{ use = \"lion\" }"), json!({ "use": "lion" }));
        assert_eq!(value("\"3\""), json!("3"));
        assert_eq!(value("runs/a b"), json!("runs/a b"));
        assert_eq!(value("nan"), json!("nan"));
    }

    #[test]
    fn a_set_without_key_or_value_says_how_to_write_it() {
        for text in ["seed", "=3", "a..b=3", "a b=3", "[a]\nb=3"] {
            let failure = set(&[text.to_owned()]).unwrap_err();
            assert!(failure.help_text().is_some_and(|help| help.contains("--set")), "{text}");
        }
    }

    #[test]
    fn a_choice_comes_before_the_keys_it_is_made_for() {
        let texts = ["optimizer.beta1=0.5".to_owned(), "optimizer=lion".to_owned()];
        let first = set(&texts).unwrap().remove(0);
        assert_eq!(first.choice("optimizer"), Some("lion"));
    }

    proptest! {
        #[test]
        fn any_text_is_a_value_and_any_string_survives_in_quotes(text in any::<String>()) {
            value(&text);
            let quoted = toml::Value::String(text.clone()).to_string();
            prop_assert_eq!(value(&quoted), json!(text));
        }

        #[test]
        fn any_set_is_a_layer_or_a_failure(text in any::<String>()) {
            let _ = set(&[text]);
        }
    }
}
