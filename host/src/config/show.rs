//! `config show`: every resolved value and the layer that it came from.

use super::resolved::{Entry, Resolved};
use serde_json::{Value, json};
use std::fmt::Write;

/// Values wider than this do not widen the column of values.
const WIDEST: usize = 48;

impl Resolved {
    /// The configuration as TOML, with the origin of each value in a comment. It can be used as a `--config` file.
    pub fn show(&self) -> String {
        let (top, sections): (Vec<&Entry>, Vec<&Entry>) = self.entries.iter().partition(|e| e.path.len() == 1);
        let mut text = String::new();
        write_block(&mut text, &top, 0);
        for block in sections.chunk_by(|a, b| a.path[0] == b.path[0]) {
            let _ = write!(text, "\n[{}]\n", block[0].path[0]);
            write_block(&mut text, block, 1);
        }
        if !self.dropped.is_empty() {
            text.push('\n');
        }
        for dropped in &self.dropped {
            let _ = writeln!(text, "# {}", dropped.to_string().replace('\n', " "));
        }
        text
    }

    /// The same as one JSON object: `values` by full key, and `dropped`.
    pub fn show_json(&self) -> Value {
        let values = self
            .entries
            .iter()
            .map(|entry| (entry.path.join("."), json!({ "value": entry.value, "from": entry.origin.to_string() })));
        let dropped = self.dropped.iter().map(
            |d| json!({ "key": d.key, "value": d.value, "from": d.origin.to_string(), "unknown_to": d.component }),
        );
        json!({ "values": values.collect::<serde_json::Map<_, _>>(), "dropped": dropped.collect::<Vec<_>>() })
    }
}

fn write_block(text: &mut String, entries: &[&Entry], skip: usize) {
    let rows: Vec<(String, Option<String>, String)> = entries
        .iter()
        .map(|entry| {
            let key = entry.path[skip..].iter().map(|part| toml_key(part)).collect::<Vec<_>>().join(".");
            (key, toml_value(&entry.value), entry.origin.to_string())
        })
        .collect();
    let key_width = rows.iter().map(|(key, ..)| key.chars().count()).max().unwrap_or(0);
    let lengths = rows.iter().filter_map(|(_, value, _)| Some(value.as_ref()?.chars().count()));
    let value_width = lengths.filter(|n| *n <= WIDEST).max().unwrap_or(0);
    for (key, value, origin) in rows {
        let _ = match value {
            Some(value) => writeln!(text, "{key:key_width$} = {value:value_width$}  # {origin}"),
            // TOML has no null, so an unset key is a comment.
            None => {
                writeln!(text, "# {:rest$}  # {origin}", format!("{key} is unset"), rest = key_width + value_width + 1)
            }
        };
    }
}

fn toml_key(part: &str) -> String {
    let bare = !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if bare { part.to_owned() } else { toml::Value::String(part.to_owned()).to_string() }
}

/// The value on one line; `None` for null.
fn toml_value(value: &Value) -> Option<String> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(s) => one_line(s),
        Value::Array(items) => format!("[{}]", items.iter().filter_map(toml_value).collect::<Vec<_>>().join(", ")),
        Value::Object(table) => {
            let entries = table.iter().filter_map(|(k, v)| Some(format!("{} = {}", toml_key(k), toml_value(v)?)));
            let entries = entries.collect::<Vec<_>>().join(", ");
            if entries.is_empty() { "{}".into() } else { format!("{{ {entries} }}") }
        }
    })
}

/// A TOML string on one line.
fn one_line(text: &str) -> String {
    // The escapes of JSON are valid in TOML. Only DEL must be escaped in TOML and is not in JSON.
    json!(text).to_string().replace('\u{7f}', "\\u007F")
}
