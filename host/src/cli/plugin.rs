//! `mdt-host plugin`: list and inspect plugins.

use std::path::Path;

use clap::Subcommand;
use serde_json::{Value, json};

use super::common::Common;
use super::output::print;
use crate::config::Components;
use crate::exit::{Failure, Status};
use crate::plugins::{Catalog, Listed};
use mdt_plugin_api::Kind;

#[derive(Subcommand)]
pub(super) enum Command {
    /// List every component of every plugin that is found. Runs none of their code.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show the components of a plugin with their configuration keys. Runs none of their code.
    Inspect {
        /// A component's id, `KIND/ID`, or a plugin's file name.
        name: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(common: &Common, command: &Command) -> Result<(), Failure> {
    let catalog = common.catalog(&common.layers(Vec::new())?)?;
    match command {
        Command::List { json: true } => print(format_args!("{:#}", list_json(&catalog)))?,
        Command::List { json: false } => print(list(&catalog).trim_end())?,
        Command::Inspect { name, json } => inspect(&catalog, name, *json)?,
    }
    Ok(())
}

fn list(catalog: &Catalog) -> String {
    let rows = catalog.list();
    let width = |cell: fn(&Listed<'_>) -> usize| rows.iter().map(cell).max().unwrap_or_default();
    let (id, version) = (width(|row| row.id.len()), width(|row| row.found.manifest.version.len()));
    let mut text = String::new();
    for row in &rows {
        let file = row.found.path.display();
        let note = row.shadowed_by.map_or(String::new(), |path| format!("  shadowed by {}", path.display()));
        let (kind, name, number) = (row.kind, row.id, &row.found.manifest.version);
        text += &format!("{kind:<9}  {name:<id$}  {number:<version$}  {file} ({}){note}\n", row.found.tier.origin);
    }
    for (path, why) in catalog.passed_over() {
        text += &format!("passed over  {}: {why}\n", path.display());
    }
    text
}

fn list_json(catalog: &Catalog) -> Value {
    let rows = catalog.list();
    let component = |row: &Listed<'_>| {
        json!({
            "kind": row.kind,
            "id": row.id,
            "version": row.found.manifest.version,
            "abi": row.found.manifest.abi,
            "file": row.found.path,
            "tier": row.found.tier.origin,
            "shadowed_by": row.shadowed_by,
        })
    };
    let other = |(path, why): (&Path, &str)| json!({ "file": path, "reason": why });
    json!({
        "components": rows.iter().map(component).collect::<Vec<_>>(),
        "passed_over": catalog.passed_over().map(other).collect::<Vec<_>>(),
    })
}

fn inspect(catalog: &Catalog, name: &str, as_json: bool) -> Result<(), Failure> {
    let rows = catalog.list();
    let matches = |row: &&Listed<'_>| {
        row.shadowed_by.is_none()
            && (row.id == name
                || format!("{}/{}", row.kind, row.id) == name
                || row.found.path.file_name().is_some_and(|file| file == name)
                || row.found.path == Path::new(name))
    };
    let chosen: Vec<_> = rows.iter().filter(matches).collect();
    if chosen.is_empty() {
        return Err(Failure::new(Status::Plugin, format!("no plugin or component is called `{name}`"))
            .help("`mdt-host plugin list` shows all"));
    }
    // What this host does not know is passed over, where there is more.
    let (known, unknown): (Vec<_>, Vec<_>) = chosen.into_iter().partition(|row| Kind::from_name(row.kind).is_some());
    let chosen = if known.is_empty() { unknown } else { known };
    let described = chosen.into_iter().map(|row| describe(catalog, row)).collect::<Result<Vec<_>, _>>()?;
    if as_json {
        return print(format_args!("{:#}", Value::Array(described)));
    }
    for component in described {
        let text = |key: &str| component[key].as_str().unwrap_or_default().to_owned();
        print(format_args!("{} {}", text("kind"), text("id")))?;
        print(format_args!("  file     {}", text("file")))?;
        print(format_args!("  sha256   {}", text("sha256")))?;
        print(format_args!("  package  {} {} ({})", text("package"), text("version"), text("license")))?;
        if !text("sources").is_empty() {
            print(format_args!("  sources  {}", text("sources")))?;
        }
        let interfaces = component["interfaces"].as_array().into_iter().flatten().filter_map(Value::as_str);
        print(format_args!("  abi      {}, {}", text("abi"), interfaces.collect::<Vec<_>>().join(", ")))?;
        for (name, sha256) in component["native"].as_object().into_iter().flatten() {
            print(format_args!("  native   {name} {}", sha256.as_str().unwrap_or_default()))?;
        }
        for (key, property) in component["schema"]["properties"].as_object().into_iter().flatten() {
            let description = property["description"].as_str().unwrap_or_default().replace('\n', " ");
            print(format_args!("  {key} = {} ({})  {description}", property["default"], values(property)))?;
        }
    }
    Ok(())
}

/// What a key may be, by its schema: `number, at least 0, below 1`.
fn values(property: &Value) -> String {
    let choices = [property, &property["anyOf"][0]].into_iter().find_map(|schema| schema["oneOf"].as_array());
    if let Some(choices) = choices {
        return choices.iter().map(|choice| choice["const"].to_string()).collect::<Vec<_>>().join(" or ");
    }
    let types = property["type"].as_array().map_or(std::slice::from_ref(&property["type"]), Vec::as_slice);
    let types: Vec<_> = types.iter().filter_map(Value::as_str).filter(|name| *name != "null").collect();
    let bounds =
        [("minimum", "at least"), ("exclusiveMinimum", "above"), ("maximum", "at most"), ("exclusiveMaximum", "below")];
    let bounds = bounds.iter().filter(|(key, _)| !property[*key].is_null());
    let bounds: String = bounds.map(|(key, name)| format!(", {name} {}", property[*key])).collect();
    let types = if types.is_empty() { "any value".to_owned() } else { types.join(" or ") };
    types + &bounds
}

fn describe(catalog: &Catalog, row: &Listed<'_>) -> Result<Value, Failure> {
    let (path, manifest) = (row.found.path, row.found.manifest);
    let kind = Kind::from_name(row.kind).ok_or_else(|| {
        Failure::new(Status::Plugin, format!("the kind `{}` is unknown to this host", row.kind)).at(path.display())
    })?;
    let (file, native) = row.found.checksums()?;
    Ok(json!({
        "kind": row.kind,
        "interfaces": manifest.component(kind, row.id).map(|record| &record.interfaces),
        "id": row.id,
        "file": path,
        "sha256": file,
        "package": manifest.package,
        "version": manifest.version,
        "license": manifest.license,
        "abi": manifest.abi,
        "native": native,
        "sources": manifest.sources,
        "schema": catalog.schema(kind, row.id)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_key_may_be_is_said_in_words() {
        for (schema, words) in [
            (json!({ "type": "number", "minimum": 0.0, "exclusiveMaximum": 1.0 }), "number, at least 0.0, below 1.0"),
            (
                json!({ "type": ["integer", "null"], "exclusiveMinimum": 0, "maximum": 9 }),
                "integer, above 0, at most 9",
            ),
            (json!({ "oneOf": [{ "const": "off" }, { "const": "best_fit" }] }), r#""off" or "best_fit""#),
            (json!({ "anyOf": [{ "oneOf": [{ "const": "off" }] }, { "type": "null" }] }), r#""off""#),
            (json!({}), "any value"),
        ] {
            assert_eq!(values(&schema), words);
        }
    }
}
