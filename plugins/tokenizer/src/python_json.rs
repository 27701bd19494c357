//! The filter `tojson` as transformers gives it to chat templates: Python's `json.dumps` without escaping for HTML.

use std::fmt::{self, Write};

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, State, Value};
use serde_json::Value as Json;

use crate::render_limits::check_depth;

const WIDEST_INDENT: usize = 100;

/// `value | tojson(indent=…, separators=…, sort_keys=…, ensure_ascii=…)`.
pub fn tojson(state: &State<'_, '_>, value: &Value, arguments: Kwargs) -> Result<String, Error> {
    let indent = arguments.get::<Option<usize>>("indent")?;
    let separators = arguments.get::<Option<Vec<String>>>("separators")?;
    let sort_keys = arguments.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    if arguments.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false) {
        return Err(invalid("ensure_ascii=true is not supported"));
    }
    arguments.assert_all_used()?;
    if indent.is_some_and(|indent| indent > WIDEST_INDENT) {
        return Err(invalid(format!("it indents by {WIDEST_INDENT} spaces at most")));
    }

    check_depth(state, value)?;
    let mut json = serde_json::to_value(value).map_err(invalid)?;
    if sort_keys {
        json.sort_all_objects();
    }
    let style = match (indent, separators.as_deref()) {
        (indent @ Some(_), None) => Style { item: ",", key: ": ", indent },
        (None, None) => Style { item: ", ", key: ": ", indent },
        (None, Some([item, key])) => Style { item, key, indent },
        (None, Some(_)) => return Err(invalid("separators are two strings")),
        (Some(_), Some(_)) => return Err(invalid("it takes indent or separators, not both")),
    };
    let mut text = String::new();
    write(&mut text, &json, &style, 0).map_err(invalid)?;
    Ok(text)
}

fn invalid(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {why}"))
}

/// Python's choice of separators, and the spaces of a level where each entry has a line of its own.
struct Style<'a> {
    item: &'a str,
    key: &'a str,
    indent: Option<usize>,
}

fn write(out: &mut String, json: &Json, style: &Style<'_>, level: usize) -> fmt::Result {
    let (open, close, entries): (_, _, Vec<(Option<&str>, &Json)>) = match json {
        Json::Array(items) => ("[", "]", items.iter().map(|item| (None, item)).collect()),
        Json::Object(map) => ("{", "}", map.iter().map(|(key, value)| (Some(key.as_str()), value)).collect()),
        Json::Number(number) if number.is_f64() => {
            return out.write_str(&float(number.as_f64().unwrap_or_default()));
        }
        other => return write!(out, "{other}"),
    };
    let line = |out: &mut String, level: usize| match style.indent {
        Some(indent) if !entries.is_empty() => write!(out, "\n{:1$}", "", indent * level),
        _ => Ok(()),
    };
    out.write_str(open)?;
    for (place, &(key, value)) in entries.iter().enumerate() {
        if place > 0 {
            out.write_str(style.item)?;
        }
        line(out, level + 1)?;
        if let Some(key) = key {
            write!(out, "{}{}", Json::from(key), style.key)?;
        }
        write(out, value, style, level + 1)?;
    }
    line(out, level)?;
    out.write_str(close)
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
