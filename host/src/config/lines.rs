//! The lines on which YAML and JSON have their keys, which their parsers do not tell.
//!
//! Read off the indentation, which is how both are written by people. What that cannot tell has no line: the lines are
//! for messages, and a wrong one would be worse than none.

use super::value::{Path, Table};
use std::collections::BTreeMap;

/// The line of each key of `values` that stands first on a line of its own, counted from 1.
pub(super) fn by_indentation(text: &str, values: &Table) -> BTreeMap<Path, usize> {
    let mut around: Vec<(usize, &str)> = Vec::new();
    let mut lines: BTreeMap<Path, Option<usize>> = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let content = line.trim();
        // Braces with something behind them: then indentation says nothing.
        if content.len() > 1 && content.starts_with('{') {
            return BTreeMap::new();
        }
        let Some(key) = leading_key(content) else { continue };
        let indentation = line.len() - line.trim_start().len();
        around.retain(|(outer, _)| *outer < indentation);
        around.push((indentation, key));
        let path = around.iter().map(|(_, key)| (*key).to_owned()).collect();
        lines.entry(path).and_modify(|line| *line = None).or_insert(Some(number + 1));
    }
    let exists = |path: &Path| {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(values.get(first)?, |value, key| value.get(key))
    };
    lines
        .into_iter()
        .filter(|(path, _)| exists(path).is_some())
        .filter_map(|(path, line)| Some((path, line?)))
        .collect()
}

/// The key that a line begins with.
fn leading_key(content: &str) -> Option<&str> {
    let (key, rest) = match content.chars().next()? {
        '#' | '-' | '[' => return None,
        quote @ ('"' | '\'') => {
            let (key, rest) = content[1..].split_once(quote)?;
            (key, rest.trim_start().strip_prefix(':')?)
        }
        _ => content.split_once(':')?,
    };
    (rest.is_empty() || rest.starts_with([' ', '\t'])).then(|| key.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn lines(text: &str, values: Value) -> Vec<(String, usize)> {
        let lines = by_indentation(text, values.as_object().expect("a table"));
        lines.into_iter().map(|(path, line)| (path.join("."), line)).collect()
    }

    #[test]
    fn keys_of_tables_in_tables_have_their_lines() {
        let yaml = "seed: 1\n# a: comment\noptimizer:\n# another: one\n  'beta1': 0.9\n\n  eps:   1e-8\ndata:\n  train:\n  \
                    - a: b\n  fields: { prompt: q,\n    completion: a }\n";
        let values = json!({
            "seed": 1, "optimizer": { "beta1": 0.9, "eps": 1e-8 },
            "data": { "train": ["a"], "fields": { "prompt": "q", "completion": "a" } },
        });
        let expected = [
            ("data", 8),
            ("data.fields", 11),
            ("data.fields.completion", 12),
            ("data.train", 9),
            ("optimizer", 3),
            ("optimizer.beta1", 5),
            ("optimizer.eps", 7),
            ("seed", 1),
        ];
        assert_eq!(lines(yaml, values), expected.map(|(key, line)| (key.to_owned(), line)));
        let pretty = "{\n  \"seed\": 1,\n  \"optimizer\": {\n    \"eps\" : 1\n  }\n}\n";
        let values = json!({ "seed": 1, "optimizer": { "eps": 1 } });
        let expected = [("optimizer", 3), ("optimizer.eps", 4), ("seed", 2)];
        assert_eq!(lines(pretty, values), expected.map(|(key, line)| (key.to_owned(), line)));
    }

    #[test]
    fn what_only_looks_like_a_key_has_no_line() {
        let text = "output_dir: |\n  seed: 2\n  x\nseed: 3\n";
        let expected = [("output_dir".to_owned(), 1), ("seed".to_owned(), 4)];
        assert_eq!(lines(text, json!({ "output_dir": "seed: 2\nx\n", "seed": 3 })), expected);
        let braces = "{ \"optimizer\": {\n  \"seed\": 1 }, \"seed\": 2 }";
        assert_eq!(lines(braces, json!({ "optimizer": { "seed": 1 }, "seed": 2 })), []);
        assert_eq!(lines("url: a\nhttp://b\n", json!({ "url": "a http://b" })), [("url".to_owned(), 1)]);
    }
}
