//! What one rendering of a chat template may cost. Templates come with models, which may be a stranger's: one that runs
//! without end, or makes values without bound, is refused.

use std::io;

use minijinja::{Environment, Error, ErrorKind, State, Value};

/// Steps of one rendering; 64 bytes that it makes or reads count as one. A conversation of a thousand turns takes some
/// hundred thousand.
const STEPS: u64 = 5_000_000;

/// Bytes of one rendering, and of one value as JSON.
const MOST_BYTES: usize = 32 << 20;

/// Values inside of each other; the JSON of a row may have 128.
const DEEPEST: usize = 200;

/// Characters of one tag: a chain of filters can nest values as deeply as it is long.
const LONGEST_TAG: usize = 1 << 14;

/// A list may be the sum of others, made of them anew each time that it is read.
const STEPS_OF_A_VISIT: u64 = 4;

const CHECK: &str = "__check_depth";

/// Sets the engine's own limits and gives it the filter that [`rewrite`] puts into templates.
pub fn install(environment: &mut Environment<'_>) {
    environment.set_fuel(Some(STEPS));
    environment.add_filter(CHECK, |state: &State<'_, '_>, value: Value, attribute: bool| {
        check_at(state, &value, usize::from(attribute)).map(|()| value)
    });
}

/// The template with every `{% set … = … %}` checking what it assigns. Only by assigning can a value come to contain
/// itself or be nested without bound, and the engine, which follows values recursively, would then fill the stack.
///
/// # Errors
/// A tag is too long to be one.
pub fn rewrite(template: &str) -> Result<String, &'static str> {
    let mut rewritten = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = next_tag(rest) {
        let (open, inner) = rest[at..].split_at(2);
        rewritten.push_str(&rest[..at + 2]);
        let length = match open {
            "{#" => inner.find("#}").unwrap_or(inner.len()),
            "{%" if is_raw(inner) => inner.find("endraw").unwrap_or(inner.len()),
            "{%" => end_of_tag(inner, "%}"),
            _ => end_of_tag(inner, "}}"),
        };
        let (inner, after) = inner.split_at(length);
        if length > LONGEST_TAG && open != "{#" && !is_raw(inner) {
            return Err("a tag of it is longer than 16,384 characters");
        }
        match assignment(inner).filter(|_| open == "{%") {
            Some((target, value)) => {
                // Whitespace control stays the tag's last character.
                let (value, control) = value.split_at(value.len() - usize::from(value.ends_with(['-', '+'])));
                rewritten.push_str(&format!("{target}({value})|{CHECK}({}) {control}", target.contains('.')));
            }
            None => rewritten.push_str(inner),
        }
        rest = after;
    }
    rewritten.push_str(rest);
    Ok(rewritten)
}

fn is_raw(inner: &str) -> bool {
    inner
        .trim_start_matches(['-', '+'])
        .trim_start()
        .strip_prefix("raw")
        .is_some_and(|rest| rest.starts_with([' ', '-', '+', '%']))
}

/// Where the next tag or comment begins.
pub fn next_tag(template: &str) -> Option<usize> {
    let opens = |(at, _): &(usize, &str)| template[at + 1..].starts_with(['%', '#', '{']);
    template.match_indices('{').find(opens).map(|(at, _)| at)
}

/// Where a tag ends, strings in it passed over.
fn end_of_tag(inner: &str, end: &str) -> usize {
    let mut quote = None;
    let mut escaped = false;
    for (at, byte) in inner.bytes().enumerate() {
        match (quote, byte) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), b'\\') => escaped = true,
            (Some(open), byte) if open == byte => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, _) if inner.as_bytes()[at..].starts_with(end.as_bytes()) => return at,
            (None, _) => {}
        }
    }
    inner.len()
}

/// A tag `set target = value` in its two parts, the equals sign in the first.
fn assignment(inner: &str) -> Option<(&str, &str)> {
    let set = inner.trim_start_matches(['-', '+']).trim_start().strip_prefix("set")?;
    let name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | ',') || c.is_whitespace();
    let value = set.trim_start_matches(name).strip_prefix('=')?;
    set.starts_with(char::is_whitespace).then(|| inner.split_at(inner.len() - value.len()))
}

/// Checks that the engine can follow a value recursively.
///
/// # Errors
/// It is nested too deeply, or holds a namespace, which can be made to hold itself.
pub fn check_depth(state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    check_at(state, value, 0)
}

/// Checks a value that is inside of so many others; a namespace may be in none.
fn check_at(state: &State<'_, '_>, value: &Value, depth: usize) -> Result<(), Error> {
    let Some(object) = value.as_object() else { return Ok(()) };
    let refused = |why: &str| Err(Error::new(ErrorKind::InvalidOperation, why.to_owned()));
    if depth > DEEPEST {
        return refused("a value is nested more than 200 levels deep");
    }
    if depth > 0 && object.type_name().ends_with("::Namespace") {
        return refused("a namespace is put into another value, and could so come to hold itself");
    }
    for (key, value) in object.try_iter_pairs().into_iter().flatten() {
        state.consume_fuel(STEPS_OF_A_VISIT)?;
        check_at(state, &key, depth + 1)?;
        check_at(state, &value, depth + 1)?;
    }
    Ok(())
}

/// Checks the widths in a text that `str.format` is called on: the engine makes the padding without counting it.
///
/// # Errors
/// They are together more than a rendering may have.
pub fn check_widths(format: &str) -> Result<(), Error> {
    let numbers = format.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let total = numbers.fold(0_usize, |sum, digits| sum.saturating_add(digits.parse().unwrap_or(usize::MAX)));
    if total > MOST_BYTES { Err(Error::from(ErrorKind::OutOfFuel)) } else { Ok(()) }
}

/// Text that is written piece by piece, up to a length.
#[derive(Default)]
pub struct Bounded {
    bytes: Vec<u8>,
    exceeded: bool,
}

impl Bounded {
    /// All that was written; `None` where it was more than may be.
    pub fn text(self) -> Option<String> {
        if self.exceeded { None } else { String::from_utf8(self.bytes).ok() }
    }

    /// Whether more was written than may be.
    pub fn is_exceeded(&self) -> bool {
        self.exceeded
    }
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.exceeded |= self.bytes.len() + bytes.len() > MOST_BYTES;
        if self.exceeded {
            return Err(io::Error::other("more than 32 MiB"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_checked_and_nothing_else_is_changed() {
        for (template, rewritten) in [
            ("{% set a = 1 %}", "{% set a =( 1 )|__check_depth(false) %}"),
            ("{%- set ns.a = 'x -%}' -%}b", "{%- set ns.a =( 'x -%}' )|__check_depth(true) -%}b"),
            ("{% set a, b = 1, 2 +%}", "{% set a, b =( 1, 2 )|__check_depth(false) +%}"),
            ("{% set a =%}", "{% set a =()|__check_depth(false) %}"),
        ] {
            assert_eq!(rewrite(template).as_deref(), Ok(rewritten));
        }
        for same in [
            "{% set a %}b = c{% endset %}",
            "{% set a | indent(width=2) %}b{% endset %}",
            "{% if a == b %}{{ f(c=1) }}{% endif %}{# {% set a = 1 %} #}",
            "{% raw %}{{ {% set a = 1 %}{% endraw %}",
            "{{ '{% set a = 1 %}' }}",
            "{% settle a = 1 %}",
            "{{",
        ] {
            assert_eq!(rewrite(same).as_deref(), Ok(same));
        }
        assert!(rewrite(&format!("{{{{ {} }}}}", "x|list".repeat(5000))).is_err());
    }
}
