//! Parses the text of a row into columns; errors say where in the file the fault is.

use mdt_plugin_api::serde_json::{self, Map, Value};
use mdt_plugin_api::{Error, Result, UniqueKeys};

use super::array::After;
use super::rows::Row;

/// The columns of a row.
///
/// # Errors
/// No JSON object: the error names line, column and excerpt.
pub(super) fn object(row: &Row<'_>, after: Option<After>) -> Result<Map<String, Value>> {
    let text = str::from_utf8(row.text).map_err(|error| not_utf8(row, error.valid_up_to()))?;
    if text.is_empty() {
        return Err(no_element(row, after));
    }
    let UniqueKeys(value) = serde_json::from_str(text).map_err(|error| not_json(row, text, after, &error))?;
    if after == Some(After::Nothing) {
        return Err(at(
            row,
            text,
            text.len(),
            Error::input("the JSON array is not closed: after this row the file ends"),
        )
        .with("excerpt", excerpt(text, text.len()))
        .help(CUT_OFF));
    }
    match value {
        Value::Object(columns) => Ok(columns),
        _ if after.is_some() => Err(at(row, text, 0, Error::input("an element of the array must be a JSON object"))
            .with("excerpt", excerpt(text, 0))),
        _ => Err(at(row, text, 0, Error::input("a line must be a JSON object"))
            .with("excerpt", excerpt(text, 0))
            .help(one_per_line(text))),
    }
}

const CUT_OFF: &str = "a file that begins with [ is one JSON array, and its ] is missing: the file may be cut off";

fn not_json(row: &Row<'_>, text: &str, after: Option<After>, error: &serde_json::Error) -> Error {
    // The parser counts lines and bytes of this one row, from 1; its own "at line 1 column 9" would mislead.
    let before: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let place = text.floor_char_boundary(before + error.column().saturating_sub(1));
    let reason = error.to_string();
    let reason = reason.rsplit_once(" at line ").map_or(reason.as_str(), |(reason, _)| reason);
    // An error of the data is one of [`UniqueKeys`]'s: the text is JSON.
    let message = if error.is_data() { reason.to_owned() } else { format!("not valid JSON: {reason}") };
    let described = at(row, text, place, Error::input(message)).with("excerpt", excerpt(text, place));
    match after {
        _ if error.is_data() => described.help("remove one of the two"),
        None if error.is_eof() => described.help(one_per_line(text)),
        Some(After::Nothing) if error.is_eof() => described.help(CUT_OFF),
        _ => described,
    }
}

fn not_utf8(row: &Row<'_>, valid: usize) -> Error {
    let text = String::from_utf8_lossy(row.text);
    at(row, &text, valid, Error::input(format!("not valid UTF-8: byte 0x{:02x}", row.text[valid])))
        .with("excerpt", excerpt(&text, valid))
        .help("save the file as UTF-8, such as with: iconv -f LATIN1 -t UTF-8")
}

/// The error for an array where an element is missing.
fn no_element(row: &Row<'_>, after: Option<After>) -> Error {
    let (message, advice) = match after {
        Some(After::Nothing) => ("the JSON array is not closed", CUT_OFF),
        _ => ("a row is missing: nothing is between this comma or bracket and what is before it", "remove the comma"),
    };
    at(row, "", 0, Error::input(message)).help(advice)
}

/// The error with the line and column of byte `at` of the row's text.
fn at(row: &Row<'_>, text: &str, at: usize, error: Error) -> Error {
    let before = &text[..at];
    let (line, column) = match before.rsplit_once('\n') {
        Some((lines, last)) => (row.line + 1 + lines.matches('\n').count() as u64, 1 + last.chars().count()),
        None => (row.line, row.column + before.chars().count()),
    };
    error.with("line", line).with("column", column)
}

fn one_per_line(text: &str) -> &'static str {
    if text.trim_start().starts_with('[') {
        "JSON Lines has an object on each line; an array of rows must be the whole file"
    } else {
        "JSON Lines has a whole object on each line: jq -c . FILE"
    }
}

/// The text around byte `at`, some thirty characters to each side, as one line.
fn excerpt(text: &str, at: usize) -> String {
    const REACH: usize = 30;
    let at = text.floor_char_boundary(at);
    let start = text.floor_char_boundary(at.saturating_sub(REACH));
    let end = text.ceil_char_boundary(at.saturating_add(REACH));
    let (before, after) = (if start > 0 { "…" } else { "" }, if end < text.len() { "…" } else { "" });
    // A row of an array may be spread over lines.
    let around = text[start..end].lines().map(str::trim_start).collect::<Vec<_>>().join(" ");
    format!("{before}{around}{after}")
}
