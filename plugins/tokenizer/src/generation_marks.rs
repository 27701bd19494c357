//! `{% generation %} … {% endgeneration %}`: the tags with which a chat template marks the assistant's text.
//!
//! The template engine has no such tags. They are rewritten to a `{% filter %}` block: whitespace control and scopes
//! stay as they are. The filter puts a noncharacter on each side of the block's text, and the positions of these are the
//! spans.

use std::ops::Range;

use minijinja::Environment;

use crate::render_limits::next_tag;

// Unicode guarantees that these two never stand for a character in exchanged text.
const OPEN: char = '\u{FDD0}';
const CLOSE: char = '\u{FDD1}';
const FILTER: &str = "__generation";

/// A template with its generation tags rewritten, and whether it has any.
pub fn rewrite(template: &str) -> (String, bool) {
    let mut rewritten = String::with_capacity(template.len() + 64);
    let mut marked = false;
    let mut rest = template;
    while let Some(at) = next_tag(rest) {
        let (before, tag) = rest.split_at(at);
        rewritten.push_str(before);
        let length = if tag.starts_with("{#") {
            let length = tag.find("#}").map_or(tag.len(), |end| end + 2);
            rewritten.push_str(&tag[..length]);
            length
        } else if let Some(generation) = Tag::parse(tag) {
            marked = true;
            rewritten.push_str(&generation.rewritten());
            generation.length
        } else {
            rewritten.push_str(&tag[..2]);
            2
        };
        rest = &tag[length..];
    }
    rewritten.push_str(rest);
    (rewritten, marked)
}

/// One of the two tags.
struct Tag<'a> {
    left: &'a str,
    right: &'a str,
    opens: bool,
    length: usize,
}

impl<'a> Tag<'a> {
    /// The generation tag at the start of `text`, if it is one.
    fn parse(text: &'a str) -> Option<Self> {
        let (left, inner) = whitespace_control(text.strip_prefix("{%")?);
        let inner = inner.trim_start();
        let word = inner.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(inner.len());
        let opens = match &inner[..word] {
            "generation" => true,
            "endgeneration" => false,
            _ => return None,
        };
        let (right, end) = whitespace_control(inner[word..].trim_start());
        let after = end.strip_prefix("%}")?;
        Some(Self { left, right, opens, length: text.len() - after.len() })
    }

    fn rewritten(&self) -> String {
        let Self { left, right, .. } = self;
        if self.opens {
            format!("{{%{left} filter {FILTER} {right}%}}")
        } else {
            format!("{{%{left} endfilter {right}%}}")
        }
    }
}

/// The `-` or `+` that a tag may have on either side, and what comes after it.
fn whitespace_control(text: &str) -> (&str, &str) {
    text.split_at(usize::from(text.starts_with(['-', '+'])))
}

/// Gives the template engine the filter that the rewritten tags apply.
pub fn install(environment: &mut Environment<'_>) {
    environment.add_filter(FILTER, |block: &str| format!("{OPEN}{block}{CLOSE}"));
}

/// Whether text that goes into a template could be taken for the marks.
pub fn occur_in(text: &str) -> bool {
    text.contains([OPEN, CLOSE])
}

/// The text without the marks, and the byte ranges in it that were marked; `None` when the marks do not pair up.
pub fn take_out(rendered: &str) -> Option<(String, Vec<Range<usize>>)> {
    let mut text = String::with_capacity(rendered.len());
    let mut spans = Vec::new();
    let mut open = None;
    for character in rendered.chars() {
        match (character, open) {
            (OPEN, None) => open = Some(text.len()),
            (CLOSE, Some(start)) => {
                spans.push(start..text.len());
                open = None;
            }
            (OPEN | CLOSE, _) => return None,
            _ => text.push(character),
        }
    }
    open.is_none().then_some((text, spans))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(template: &str) -> (String, Vec<String>) {
        let mut environment = Environment::new();
        environment.set_syntax(crate::template::syntax());
        install(&mut environment);
        let (template, _) = rewrite(template);
        let rendered = environment.render_str(&template, ()).expect("renders");
        let (text, spans) = take_out(&rendered).expect("paired");
        let marked = spans.into_iter().map(|span| text[span].to_owned()).collect();
        (text, marked)
    }

    #[test]
    fn whitespace_control_works_as_on_any_block_tag() {
        // Expected values are those of transformers 5 (Jinja with trim_blocks and lstrip_blocks).
        assert_eq!(spans("a {%- generation -%} b {%- endgeneration -%} c"), ("abc".into(), vec!["b".into()]));
        assert_eq!(spans("a {% generation %} b {% endgeneration %} c"), ("a  b  c".into(), vec![" b ".into()]));
        assert_eq!(spans("a\n  {% generation %}\nb\n  {% endgeneration %}\nc"), ("a\nb\nc".into(), vec!["b\n".into()]));
        assert_eq!(
            spans("a\n  {%+ generation +%}\nb\n{%endgeneration-%}\nc"),
            ("a\n  \nb\nc".into(), vec!["\nb\n".into()])
        );
    }

    #[test]
    fn marked_text_sees_and_sets_the_variables_around_it() {
        let (text, _) =
            spans("{% set ns = namespace(a=1) %}{% generation %}{% set ns.a = 2 %}{% endgeneration %}{{ ns.a }}");
        assert_eq!(text, "2");
        let (text, marked) = spans(
            "{% for n in [1, 2] %}{% set m = n * 10 %}{% generation %}{{ n }}:{{ m }}:{{ loop.index }} {% endgeneration %}{% endfor %}",
        );
        assert_eq!(text, "1:10:1 2:20:2 ");
        assert_eq!(marked, ["1:10:1 ", "2:20:2 "]);
    }

    #[test]
    fn other_tags_and_comments_are_left_alone() {
        let template = "{# {% generation %} #}{% if generation %}{% set generation_prompt = 1 %}{% endif %}{%";
        assert_eq!(rewrite(template), (template.to_owned(), false));
    }

    #[test]
    fn marks_that_do_not_pair_up_are_noticed() {
        for broken in ["\u{FDD0}", "\u{FDD1}", "\u{FDD0}\u{FDD0}\u{FDD1}\u{FDD1}", "\u{FDD1}\u{FDD0}"] {
            assert_eq!(take_out(broken), None);
        }
    }
}
