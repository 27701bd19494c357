//! Text made of columns: `{title}\n{body}`. `{{` and `}}` stand for braces.

use mdt_plugin_api::serde_json::{Map, Value};
use mdt_plugin_api::{Error, Result};

use super::advice::keys;
use super::path;

/// A template, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Column(String),
}

impl Template {
    /// # Errors
    /// A brace that is not closed or not opened, or names no column.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Err(Error::config(format!("data.text {why}: {text:?}"))
                .with("key", "data.text")
                .help("a column stands in braces, {title}; write {{ and }} for braces in the text"))
        };
        let (mut parts, mut plain, mut rest) = (Vec::new(), String::new(), text);
        while let Some(place) = rest.find(['{', '}']) {
            plain.push_str(&rest[..place]);
            let (brace, after) = rest[place..].split_at(1);
            if let Some(after) = after.strip_prefix(brace) {
                plain.push_str(brace);
                rest = after;
            } else if brace == "}" {
                return wrong("has a } without a {");
            } else {
                let Some((name, after)) = after.split_once('}') else { return wrong("has a { without a }") };
                if name.is_empty() || name.contains('{') {
                    return wrong("has braces without the name of a column");
                }
                parts.push(Part::Text(std::mem::take(&mut plain)));
                parts.push(Part::Column(name.to_owned()));
                rest = after;
            }
        }
        plain.push_str(rest);
        parts.push(Part::Text(plain));
        if parts.len() == 1 {
            return wrong("names no column");
        }
        Ok(Self(parts))
    }

    /// The text of a row. What is no text stands there as JSON.
    ///
    /// # Errors
    /// The row lacks a column.
    pub fn render(&self, row: &Map<String, Value>) -> Result<String> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Column(name) => {
                    match path::get(row, name) {
                        Some(Value::String(value)) => text.push_str(value),
                        Some(other) => text.push_str(&other.to_string()),
                        None => {
                            return Err(Error::input(format!("the row has no `{name}`, which `data.text` names"))
                            .with("keys found", keys(row))
                            .help("name another column in `data.text`, or give the row this one: it may be empty text"));
                        }
                    }
                }
            }
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use mdt_plugin_api::serde_json::json;

    use super::*;

    #[test]
    fn columns_take_their_places_and_doubled_braces_stay() {
        let Value::Object(row) = json!({"title": "A", "body": "{b}", "n": 3, "turn": {"q": "?"}}) else { panic!() };
        for (template, text) in [
            ("{title}\n{body}", "A\n{b}"),
            ("{{{title}}} {n} {turn.q}", "{A} 3 ?"),
            ("{turn}", "{\"q\":\"?\"}"),
            ("ä{title}ä", "äAä"),
        ] {
            assert_eq!(Template::parse(template).unwrap().render(&row).unwrap(), text);
        }
        let error = Template::parse("{title} {date}").unwrap().render(&row).unwrap_err();
        assert_eq!(error.message(), "the row has no `date`, which `data.text` names");
        for wrong in ["{title", "title}", "{}", "{a{b}}", "title", "{{title}}"] {
            assert!(Template::parse(wrong).is_err(), "{wrong}");
        }
    }
}
