//! Reading configuration files: TOML, YAML or JSON by their extension, and the profiles in them.

use super::layer::Layer;
use super::origin::Origin;
use super::value::{Path, Table, describe, from_toml};
use super::{flat, yaml};
use crate::exit::Failure;
use crate::text_file;
use mdt_plugin_api::UniqueKeys;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path as FilePath;
use toml::de::{DeTable, DeValue};

/// The size limit of configuration files, in bytes.
const LIMIT: u64 = 1 << 20;

/// The content of one `--config` file.
pub(super) struct File {
    pub(super) base: Layer,
    /// The tables under `profile`, by name.
    pub(super) profiles: BTreeMap<String, Layer>,
}

/// Reads and parses one file.
///
/// # Errors
/// The file cannot be read or parsed, has another extension, or a section is not a table.
pub(super) fn read(path: &FilePath) -> Result<File, Failure> {
    let text = text_file::read(path, LIMIT).map_err(|e| {
        Failure::configuration(format!("cannot read the configuration file `{}`", path.display())).because(e)
    })?;
    let (value, mut lines) = match path.extension().and_then(|e| e.to_str()) {
        Some("toml") => toml_values(path, &text)?,
        Some("yaml" | "yml") => yaml_values(path, &text)?,
        Some("json") => json_values(path, &text)?,
        _ => {
            return Err(Failure::configuration(format!("`{}` is not a configuration file", path.display()))
                .help("configuration files end in .toml, .yaml, .yml or .json"));
        }
    };
    let mut values = match value {
        Value::Object(table) => table,
        Value::Null => Table::new(),
        other => return Err(not_a_table(path, "a configuration file", &other)),
    };
    let origin = |profile: Option<&str>| Origin::File {
        path: path.to_owned(),
        line: None,
        profile: profile.map(str::to_owned),
        flat_key: None,
    };

    let mut profiles = BTreeMap::new();
    for (name, table) in take_profiles(path, &mut values)? {
        let prefix = ["profile".to_owned(), name.clone()];
        let inside = lines.iter().filter_map(|(at, line)| Some((at.strip_prefix(&prefix)?.to_vec(), *line)));
        let layer = Layer::new(origin(Some(&name)), table, inside.collect())?;
        profiles.insert(name, layer);
    }
    lines.retain(|at, _| at.first().is_some_and(|key| key != "profile"));
    Ok(File { base: flat::layer(origin(None), values, lines)?, profiles })
}

/// Takes the tables of `profile` out of a file's values.
fn take_profiles(path: &FilePath, values: &mut Table) -> Result<Vec<(String, Table)>, Failure> {
    let profiles = match values.remove("profile") {
        None => return Ok(Vec::new()),
        Some(Value::Object(profiles)) => profiles,
        Some(other) => return Err(not_a_table(path, "`profile`", &other)),
    };
    profiles
        .into_iter()
        .map(|(name, value)| match value {
            Value::Object(table) => Ok((name, table)),
            other => Err(not_a_table(path, &format!("`profile.{name}`"), &other)),
        })
        .collect()
}

fn not_a_table(path: &FilePath, what: &str, found: &Value) -> Failure {
    let message = format!("{what} is {}, where a table is expected", describe(found));
    Failure::configuration(message).at(path.display())
}

/// The values of a file, and the lines of their keys.
type Parsed = Result<(Value, BTreeMap<Path, usize>), Failure>;

fn toml_values(path: &FilePath, text: &str) -> Parsed {
    let broken = |e: toml::de::Error| {
        let line = e.span().map(|span| line_at(text, span.start));
        not_parsed(path, line, "TOML", e.message())
    };
    let document = DeTable::parse(text).map_err(broken)?;
    let mut lines = BTreeMap::new();
    collect_lines(text, document.get_ref(), &mut Path::new(), &mut lines);
    let value = from_toml(&DeValue::Table(document.into_inner()));
    Ok((value.map_err(|message| not_parsed(path, None, "TOML", &message))?, lines))
}

fn collect_lines(text: &str, table: &DeTable<'_>, path: &mut Path, lines: &mut BTreeMap<Path, usize>) {
    for (key, value) in table {
        path.push(key.get_ref().to_string());
        lines.insert(path.clone(), line_at(text, key.span().start));
        if let Some(table) = value.get_ref().as_table() {
            collect_lines(text, table, path, lines);
        }
        path.pop();
    }
}

fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
}

fn not_parsed(path: &FilePath, line: Option<usize>, format: &str, message: &str) -> Failure {
    let place = match line {
        Some(line) => format!("{}:{line}", path.display()),
        None => path.display().to_string(),
    };
    Failure::configuration(format!("not valid {format}: {message}")).at(place)
}

fn yaml_values(path: &FilePath, text: &str) -> Parsed {
    let document = yaml::parse(text).map_err(|broken| not_parsed(path, Some(broken.line), "YAML", &broken.message))?;
    Ok((document.value, document.lines))
}

fn json_values(path: &FilePath, text: &str) -> Parsed {
    let UniqueKeys(value) =
        serde_json::from_str(text).map_err(|e| not_parsed(path, Some(e.line()), "JSON", &e.to_string()))?;
    // JSON that the YAML parser does not read has no line numbers in messages.
    Ok((value, yaml::parse(text).map(|document| document.lines).unwrap_or_default()))
}
