//! The filter `tojson` as transformers gives it to chat templates: Python's `json.dumps` without escaping for HTML.

use std::io;

use mdt_plugin_api::serde::Serialize;
use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// `value | tojson(indent=…, separators=…, sort_keys=…, ensure_ascii=…)`.
pub fn tojson(value: &Value, arguments: Kwargs) -> Result<String, Error> {
    let indent = arguments.get::<Option<usize>>("indent")?;
    let separators = arguments.get::<Option<Vec<String>>>("separators")?;
    let sort_keys = arguments.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    if arguments.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false) {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson(ensure_ascii=true) is not supported"));
    }
    arguments.assert_all_used()?;

    let mut json = serde_json::to_value(value).map_err(unserialisable)?;
    if sort_keys {
        json.sort_all_objects();
    }
    match (indent, separators.as_deref()) {
        (Some(indent), None) => {
            let spaces = " ".repeat(indent);
            write(&json, Indented(PrettyFormatter::with_indent(spaces.as_bytes())))
        }
        (None, None) => write(&json, Separated { item: ", ", key: ": " }),
        (None, Some([item, key])) => write(&json, Separated { item, key }),
        (None, Some(_)) => Err(Error::new(ErrorKind::InvalidOperation, "tojson's separators are two strings")),
        (Some(_), Some(_)) => {
            Err(Error::new(ErrorKind::InvalidOperation, "tojson takes indent or separators, not both"))
        }
    }
}

fn write(json: &serde_json::Value, formatter: impl Formatter) -> Result<String, Error> {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, formatter);
    json.serialize(&mut serializer).map_err(unserialisable)?;
    String::from_utf8(bytes).map_err(unserialisable)
}

fn unserialisable(error: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {error}"))
}

/// One line, with Python's choice of separators.
struct Separated<'a> {
    item: &'a str,
    key: &'a str,
}

impl Separated<'_> {
    fn between<W: ?Sized + io::Write>(&self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(self.item.as_bytes()) }
    }
}

impl Formatter for Separated<'_> {
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(float(value).as_bytes())
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.between(writer, first)
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.between(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.key.as_bytes())
    }
}

/// Several lines, with Python's floats.
struct Indented<'a>(PrettyFormatter<'a>);

impl Formatter for Indented<'_> {
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(float(value).as_bytes())
    }

    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(writer, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
}

/// A float as Python's `repr` has it: an exponent, of two digits, below 1e-4 and from 1e16 on.
pub fn float(value: f64) -> String {
    let scientific = format!("{value:e}");
    match scientific.split_once('e').and_then(|(digits, exponent)| Some((digits, exponent.parse::<i32>().ok()?))) {
        Some((digits, exponent)) if !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => format!("{value:?}"),
    }
}

#[cfg(test)]
mod tests {
    use minijinja::value::Serde;
    use minijinja::{Environment, context};

    fn rendered(expression: &str) -> String {
        let mut environment = Environment::new();
        environment.add_filter("tojson", super::tojson);
        let value = Serde(serde_json::json!({"b": [1, 2.5e-7, true, null], "a": "<ü> & 'x'"}));
        environment.render_str(&format!("{{{{ value | {expression} }}}}"), context! { value }).expect("renders")
    }

    #[test]
    fn floats_are_those_of_python() {
        // Made with repr(value).
        for (value, expected) in [
            (1e-7, "1e-07"),
            (0.0001, "0.0001"),
            (0.00012, "0.00012"),
            (0.000099, "9.9e-05"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (-1.5e22, "-1.5e+22"),
            (1e100, "1e+100"),
            (48.86, "48.86"),
            (3.0, "3.0"),
            (-0.0, "-0.0"),
        ] {
            assert_eq!(super::float(value), expected);
        }
    }

    #[test]
    fn writes_what_python_writes() {
        // Made with json.dumps(value, ensure_ascii=False, …).
        assert_eq!(rendered("tojson"), r#"{"b": [1, 2.5e-07, true, null], "a": "<ü> & 'x'"}"#);
        assert_eq!(rendered("tojson(separators=(',', ':'))"), r#"{"b":[1,2.5e-07,true,null],"a":"<ü> & 'x'"}"#);
        assert_eq!(rendered("tojson(sort_keys=true)"), r#"{"a": "<ü> & 'x'", "b": [1, 2.5e-07, true, null]}"#);
        assert_eq!(
            rendered("tojson(indent=2)"),
            "{\n  \"b\": [\n    1,\n    2.5e-07,\n    true,\n    null\n  ],\n  \"a\": \"<ü> & 'x'\"\n}"
        );
    }
}
