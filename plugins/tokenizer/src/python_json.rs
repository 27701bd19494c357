//! The filter `tojson` as transformers gives it to chat templates: Python's `json.dumps` without escaping for HTML.

use std::fmt::{self, Write};

use minijinja::value::{Kwargs, Rest};
use minijinja::{Error, ErrorKind, State, Value};
use serde_json::Value as Json;

use crate::render_limits::check_depth;

const WIDEST_INDENT: usize = 100;

/// The parameters after the value, in transformers' order.
const PARAMETERS: [&str; 4] = ["ensure_ascii", "indent", "separators", "sort_keys"];

/// `value | tojson(ensure_ascii=…, indent=…, separators=…, sort_keys=…)`, by name or in this order.
pub fn tojson(state: &State<'_, '_>, value: &Value, given: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    if given.len() > PARAMETERS.len() {
        return Err(invalid("it takes four arguments"));
    }
    let argument = |place: usize| match given.get(place) {
        Some(value) => Ok(Some(value.clone())),
        None => named.get::<Option<Value>>(PARAMETERS[place]),
    };
    let [ensure_ascii, indent, separators, sort_keys] = [argument(0)?, argument(1)?, argument(2)?, argument(3)?];
    named.assert_all_used()?;
    let is_true = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let indent = match indent.filter(|indent| !indent.is_none()) {
        None => None,
        Some(indent) => Some(match (indent.as_str(), indent.as_usize()) {
            (Some(text), _) => text.to_owned(),
            (None, Some(spaces)) if spaces <= WIDEST_INDENT => " ".repeat(spaces),
            (None, None) if indent.is_integer() => String::new(),
            _ => return Err(invalid(format!("it indents by {WIDEST_INDENT} spaces at most"))),
        }),
    };
    let separators = match separators.filter(|separators| !separators.is_none()) {
        None => None,
        Some(separators) => {
            let texts = separators.try_iter()?.map(|text| text.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
            match texts.as_deref() {
                Some([item, key]) => Some([item.clone(), key.clone()]),
                _ => return Err(invalid("separators are two strings")),
            }
        }
    };

    check_depth(state, value)?;
    let mut json = serde_json::to_value(value).map_err(invalid)?;
    if is_true(sort_keys) {
        json.sort_all_objects();
    }
    let item = if indent.is_some() { "," } else { ", " };
    let [item, key] = separators.unwrap_or_else(|| [item.to_owned(), ": ".to_owned()]);
    let mut text = String::new();
    write(&mut text, &json, &Style { item, key, indent }, 0).map_err(invalid)?;
    Ok(if is_true(ensure_ascii) { ascii(&text) } else { text })
}

/// `json.dumps(value, ensure_ascii=False)`.
pub fn dumps(json: &Json) -> String {
    let mut text = String::new();
    let style = Style { item: ", ".to_owned(), key: ": ".to_owned(), indent: None };
    // Writing into a string does not fail.
    let _ = write(&mut text, json, &style, 0);
    text
}

fn invalid(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {why}"))
}

/// Characters beyond ASCII as escapes. They occur in strings only.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            ' '..='~' | '\n' | '\r' | '\t' => text.push(character),
            other => other.encode_utf16(&mut [0; 2]).iter().for_each(|unit| text += &format!("\\u{unit:04x}")),
        }
    }
    text
}

/// Python's choice of separators, and what each level is indented by where each entry has a line of its own.
struct Style {
    item: String,
    key: String,
    indent: Option<String>,
}

fn write(out: &mut String, json: &Json, style: &Style, level: usize) -> fmt::Result {
    let (open, close, entries): (_, _, Vec<(Option<&str>, &Json)>) = match json {
        Json::Array(items) => ("[", "]", items.iter().map(|item| (None, item)).collect()),
        Json::Object(map) => ("{", "}", map.iter().map(|(key, value)| (Some(key.as_str()), value)).collect()),
        Json::Number(number) if number.is_f64() => {
            return out.write_str(&float(number.as_f64().unwrap_or_default()));
        }
        other => return write!(out, "{other}"),
    };
    let line = |out: &mut String, level: usize| match &style.indent {
        Some(indent) if !entries.is_empty() => write!(out, "\n{}", indent.repeat(level)),
        _ => Ok(()),
    };
    out.write_str(open)?;
    for (place, &(key, value)) in entries.iter().enumerate() {
        if place > 0 {
            out.write_str(&style.item)?;
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
        assert_eq!(
            rendered("tojson(indent='\t', separators=(';', '='))").split(';').next(),
            Some("{\n\t\"b\"=[\n\t\t1")
        );
        assert_eq!(rendered("tojson(indent=0)").lines().nth(1), Some("\"b\": ["));
        // transformers' parameters are in this order.
        assert_eq!(rendered("tojson(true, none, none, true)"), rendered("tojson(ensure_ascii=true, sort_keys=true)"));
        assert_eq!(rendered("tojson(ensure_ascii=true)"), r#"{"b": [1, 2.5e-07, true, null], "a": "<\u00fc> & 'x'"}"#);
        assert_eq!(super::ascii("\"😀\u{7f}\""), r#""\ud83d\ude00\u007f""#);
    }
}
