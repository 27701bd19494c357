//! Parsing YAML, with the lines of its keys. JSON is YAML too, so this also finds the lines of keys in JSON.
//!
//! The text is read event by event, with limits on the depth and on the number of values: without them, a small file
//! could use any amount of memory.

use super::value::{DEPTH, Path, Table, finite};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::str::Chars;
use yaml_rust2::Yaml;
use yaml_rust2::parser::{Event, Parser, Tag};
use yaml_rust2::scanner::{Marker, TScalarStyle};

/// The limit of values in a file, including those that aliases copy.
const VALUES: usize = 100_000;

/// The one document of a file.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) value: Value,
    /// The line of each key, counted from 1.
    pub(super) lines: BTreeMap<Path, usize>,
}

/// What is wrong with a text, and in which line.
#[derive(Debug, PartialEq)]
pub(super) struct Broken {
    pub(super) message: String,
    pub(super) line: usize,
}

/// The value of a text that is one document; none where it is not YAML.
pub(crate) fn value_of(text: &str) -> Option<Value> {
    parse(text).ok().map(|document| document.value)
}

/// Parses a text that is one document.
///
/// # Errors
/// It is not YAML, has several documents, or exceeds a limit.
pub(super) fn parse(text: &str) -> Result<Document, Broken> {
    let parser = Parser::new_from_str(text);
    let mut reader = Reader { parser, anchors: HashMap::new(), path: Path::new(), lines: BTreeMap::new(), values: 0 };
    let mut document = None;
    loop {
        let (event, place) = reader.next()?;
        match event {
            Event::StreamEnd => return Ok(Document { value: document.unwrap_or_default(), lines: reader.lines }),
            Event::StreamStart | Event::DocumentStart | Event::DocumentEnd => {}
            _ if document.is_some() => return Err(broken("a second document begins here", place)),
            event => document = Some(reader.value(event, place)?),
        }
    }
}

struct Reader<'a> {
    parser: Parser<Chars<'a>>,
    anchors: HashMap<usize, Value>,
    path: Path,
    lines: BTreeMap<Path, usize>,
    /// Values so far.
    values: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Result<(Event, Marker), Broken> {
        self.parser.next_token().map_err(|error| broken(error.info(), *error.marker()))
    }

    fn value(&mut self, event: Event, place: Marker) -> Result<Value, Broken> {
        if self.path.len() > DEPTH {
            return Err(broken(format!("tables and lists are nested more than {DEPTH} deep"), place));
        }
        let (anchor, tag, value) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = style != TScalarStyle::Plain || tag.as_ref().is_some_and(|tag| tag.suffix == "str");
                let value = if is_text { Ok(text.into()) } else { plain(&text) };
                (anchor, tag, value.map_err(|message| broken(message, place))?)
            }
            Event::SequenceStart(anchor, tag) => (anchor, tag, self.list()?),
            Event::MappingStart(anchor, tag) => (anchor, tag, self.table()?),
            Event::Alias(anchor) => {
                let inside = || broken("an alias is inside the value that it names", place);
                let value = self.anchors.get(&anchor).ok_or_else(inside)?.clone();
                self.values += count(&value);
                (0, None, value)
            }
            other => return Err(broken(format!("{other:?} is not expected"), place)),
        };
        self.values += 1;
        if self.values > VALUES {
            return Err(broken(format!("there are more than {VALUES} values"), place));
        }
        if let Some(Tag { handle, suffix }) = tag.filter(|tag| tag.handle != "tag:yaml.org,2002:") {
            return Err(broken(format!("the tag {handle}{suffix} has no meaning here"), place));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, value.clone());
        }
        Ok(value)
    }

    fn list(&mut self) -> Result<Value, Broken> {
        let mut items = Vec::new();
        loop {
            let (event, place) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(items.into());
            }
            self.path.push(items.len().to_string());
            items.push(self.value(event, place)?);
            self.path.pop();
        }
    }

    fn table(&mut self) -> Result<Value, Broken> {
        let (mut table, mut merged) = (Table::new(), Vec::new());
        loop {
            let (event, place) = self.next()?;
            let (key, style) = match event {
                Event::MappingEnd => break,
                Event::Scalar(key, style, ..) => (key, style),
                _ => return Err(broken("a key is not a string", place)),
            };
            self.path.push(key.clone());
            self.lines.insert(self.path.clone(), place.line());
            let (event, inside) = self.next()?;
            let value = self.value(event, inside)?;
            self.path.pop();
            if key == "<<" && style == TScalarStyle::Plain {
                merged.push(value);
            } else if table.insert(key.clone(), value).is_some() {
                return Err(broken(format!("the key `{key}` is there twice"), place));
            }
        }
        // The merge key of YAML 1.1: keys that the table does not have come from its tables, the first one first.
        while let Some(value) = merged.pop() {
            match value {
                Value::Array(tables) => merged.extend(tables.into_iter().rev()),
                Value::Object(other) => {
                    for (key, value) in other {
                        table.entry(key).or_insert(value);
                    }
                }
                _ => {}
            }
        }
        Ok(Value::Object(table))
    }
}

/// The value of a scalar without quotes, by the core schema of YAML 1.2.
fn plain(text: &str) -> Result<Value, String> {
    match Yaml::from_str(text) {
        Yaml::Null => Ok(Value::Null),
        Yaml::Boolean(value) => Ok(value.into()),
        Yaml::Integer(value) => Ok(value.into()),
        real @ Yaml::Real(_) => {
            text.parse::<u64>().map_or_else(|_| finite(real.as_f64().unwrap_or(f64::NAN)), |large| Ok(large.into()))
        }
        _ => Ok(text.into()),
    }
}

/// The number of values in a value, itself included.
fn count(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(count).sum::<usize>(),
        Value::Object(table) => 1 + table.values().map(count).sum::<usize>(),
        _ => 1,
    }
}

fn broken(message: impl Into<String>, place: Marker) -> Broken {
    Broken { message: message.into(), line: place.line() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn lines(text: &str) -> Vec<(String, usize)> {
        parse(text).unwrap().lines.into_iter().map(|(path, line)| (path.join("."), line)).collect()
    }

    #[test]
    fn keys_have_their_lines_in_yaml_and_in_json() {
        let yaml = "seed: 1\n# a: comment\noptimizer:\n# another: one\n  'beta1': 0.9\n\n  eps:   1e-8\ndata:\n  \
                    fields: { prompt: q,\n    completion: a }\n";
        let expected = [
            ("data", 8),
            ("data.fields", 9),
            ("data.fields.completion", 10),
            ("data.fields.prompt", 9),
            ("optimizer", 3),
            ("optimizer.beta1", 5),
            ("optimizer.eps", 7),
            ("seed", 1),
        ];
        assert_eq!(lines(yaml), expected.map(|(key, line)| (key.to_owned(), line)));
        let expected = [("a", 1), ("a.b", 2), ("c", 2)].map(|(key, line)| (key.to_owned(), line));
        assert_eq!(lines("{ \"a\": {\n  \"b\": 1 }, \"c\": \"d: 1\" }"), expected);
    }

    #[test]
    fn values_have_the_types_of_the_core_schema() {
        let text = "a: 1e-4\nb: 18446744073709551615\nc: -3\nd: 'yes'\ne: yes\nf: ~\ng: true\nh: [1, x]\ni: !!str 3\n\
                    base: &base { k: 1, l: 2 }\nj: { <<: *base, l: 3 }\nk: |\n  seed: 2\n";
        let expected = json!({
            "a": 1e-4, "b": u64::MAX, "c": -3, "d": "yes", "e": "yes", "f": null, "g": true, "h": [1, "x"], "i": "3",
            "base": { "k": 1, "l": 2 }, "j": { "l": 3, "k": 1 }, "k": "seed: 2\n",
        });
        assert_eq!(parse(text).unwrap().value, expected);
        assert_eq!(parse("").unwrap().value, Value::Null);
        for (wrong, line) in [
            ("a: 1\na: 2\n", 2),
            ("a: 1\n---\nb: 2\n", 3),
            ("a: .inf", 1),
            ("a: !x 1", 1),
            ("[1]: 2", 1),
            ("a: &a [*a]", 1),
        ] {
            assert_eq!(parse(wrong).unwrap_err().line, line, "{wrong}");
        }
    }

    #[test]
    fn a_small_text_cannot_ask_for_much_memory_or_time() {
        let laughs: String = (1..40).map(|n| format!("a{n}: &a{n} [*a{m}, *a{m}]\n", m = n - 1)).collect();
        let deep: String = (0..1000).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
        for bomb in
            ["[".repeat(100_000), "- ".repeat(100_000), "{a: ".repeat(100_000), deep, format!("a0: &a0 x\n{laughs}")]
        {
            let begin = std::time::Instant::now();
            assert!(parse(&bomb).is_err());
            assert!(begin.elapsed().as_secs() < 5, "{}", &bomb[..20]);
        }
    }
}
