//! Limits of one rendering of a chat template: steps, output size, nesting. Templates come with models, which may come
//! from strangers. What these do not bound exceeds the limits of time and memory.

use minijinja::{Environment, Error, ErrorKind, State, Value};

/// Maximum steps of one rendering. 64 bytes that are made or read count as one step. A conversation of 1,000 turns takes
/// some 100,000 steps.
const STEPS: u64 = 5_000_000;

/// Maximum size in bytes of one rendering.
pub const LONGEST_RENDERING: usize = 32 << 20;

/// Maximum size in bytes of a template.
const LONGEST: usize = 1 << 20;

/// Maximum nesting of values; the JSON of a row may have 128 levels.
const DEEPEST: usize = 200;

/// Maximum length of one tag in bytes: a chain of filters can nest a value once per filter.
const LONGEST_TAG: usize = 1 << 14;

/// Steps for each element that is checked. A sum of lists is computed again each time that it is read, so this is slow.
const STEPS_OF_A_VISIT: u64 = 4;

const CHECK: &str = "__check_depth";

/// Sets the engine's own limits and gives it the filter that [`rewrite`] puts into templates.
pub fn install(environment: &mut Environment<'_>) {
    environment.set_fuel(Some(STEPS));
    environment.add_filter(CHECK, |state: &State<'_, '_>, value: Value, attribute: bool| {
        check_at(state, &value, usize::from(attribute)).map(|()| value)
    });
}

/// Adds a check to every `{% set … = … %}` of a template. Only an assignment can make a value contain itself or nest it
/// without limit, and the engine, which follows values recursively, would then overflow the stack.
///
/// # Errors
/// It, or a tag of it, is longer than any template needs.
pub fn rewrite(template: &str) -> Result<String, &'static str> {
    if template.len() > LONGEST {
        return Err("it is longer than 1 MiB");
    }
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

/// Where a tag ends. The end inside a string does not count.
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

/// Splits a tag `set target = value` after the equals sign; `None` for other tags.
fn assignment(inner: &str) -> Option<(&str, &str)> {
    let set = inner.trim_start_matches(['-', '+']).trim_start().strip_prefix("set")?;
    let name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | ',') || c.is_whitespace();
    let value = set.trim_start_matches(name).strip_prefix('=')?;
    set.starts_with(char::is_whitespace).then(|| inner.split_at(inner.len() - value.len()))
}

/// Checks that the engine can follow a value recursively.
///
/// # Errors
/// It is nested too deeply, or contains a namespace, which could contain itself.
pub fn check_depth(state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    check_at(state, value, 0)
}

/// Checks a value at this depth. A namespace is allowed at depth 0 only.
fn check_at(state: &State<'_, '_>, value: &Value, depth: usize) -> Result<(), Error> {
    let Some(object) = value.as_object() else { return Ok(()) };
    let refused = |why: &str| Err(Error::new(ErrorKind::InvalidOperation, why.to_owned()));
    if depth > DEEPEST {
        return refused("a value is nested more than 200 levels deep");
    }
    if depth > 0 && object.type_name().ends_with("::Namespace") {
        return refused("a namespace is put into another value, so that it could contain itself");
    }
    for (key, value) in object.try_iter_pairs().into_iter().flatten() {
        state.consume_fuel(STEPS_OF_A_VISIT)?;
        check_at(state, &key, depth + 1)?;
        check_at(state, &value, depth + 1)?;
    }
    Ok(())
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
