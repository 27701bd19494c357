//! Escaping control characters in text that may reach a terminal.

use std::borrow::Cow;

/// The text with its control characters and bidirectional overrides escaped, as in `\u001b`; line breaks and tabs stay.
/// JSON and TOML have the same escapes, so escaped JSON has the same values.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if is_escaped(character) {
            shown += &format!("\\u{:04x}", u32::from(character));
        } else {
            shown.push(character);
        }
    }
    Cow::Owned(shown)
}

fn is_escaped(character: char) -> bool {
    let reorders = matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    reorders || character.is_control() && character != '\n' && character != '\t'
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn control_characters_are_escaped_and_everything_else_stays() {
        assert_eq!(printable("a\tb\nä 漢 🙂"), "a\tb\nä 漢 🙂");
        assert_eq!(printable("\x1b[2Jx\r\x07\x7f\u{9b}m"), "\\u001b[2Jx\\u000d\\u0007\\u007f\\u009bm");
        assert_eq!(printable("\u{202e}gpj.exe"), "\\u202egpj.exe");
    }

    #[test]
    fn escaped_json_has_the_same_values() {
        let value = serde_json::json!({ "a": "\x1b\x7f\u{9b}\u{202e}\n" });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&printable(&format!("{value:#}"))).unwrap(), value);
    }
}
