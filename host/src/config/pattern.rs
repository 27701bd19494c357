//! Patterns of parameter names: `*` stands for any characters, `?` for one.

/// Whether `pattern` matches the whole of `name`. A `*` crosses dots: `*.bias` matches the bias of every layer.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // The last star seen, and where in the name it stops matching; a mismatch lets it take one character more.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == '?' || c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, end)) => {
                    star = Some((at, end + 1));
                    p = at + 1;
                    n = end + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::matches;
    use proptest::prelude::*;

    /// The definition, character by character.
    fn by_definition(pattern: &[char], name: &[char]) -> bool {
        match (pattern, name) {
            ([], name) => name.is_empty(),
            (['*', rest @ ..], name) => (0..=name.len()).any(|i| by_definition(rest, &name[i..])),
            (['?', rest @ ..], [_, tail @ ..]) => by_definition(rest, tail),
            ([c, rest @ ..], [d, tail @ ..]) => c == d && by_definition(rest, tail),
            _ => false,
        }
    }

    #[test]
    fn biases_and_norms_are_named_by_two_patterns() {
        assert!(matches("*.bias", "model.layers.0.self_attn.q_proj.bias"));
        assert!(matches("*norm*", "model.layers.11.input_layernorm.weight"));
        assert!(!matches("*.bias", "model.layers.0.self_attn.q_proj.bias_scale"));
        assert!(!matches("norm", "model.norm"));
    }

    proptest! {
        #[test]
        fn matching_agrees_with_its_definition(pattern in "[ab*?]{0,8}", name in "[ab]{0,10}") {
            let chars = |s: &str| s.chars().collect::<Vec<_>>();
            prop_assert_eq!(matches(&pattern, &name), by_definition(&chars(&pattern), &chars(&name)));
        }
    }
}
