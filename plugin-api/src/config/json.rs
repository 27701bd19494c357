//! JSON that is written while a plugin is compiled: the only way into a section that is read without running anything.

/// A piece of JSON.
#[derive(Clone, Copy)]
pub enum Json {
    /// Text as it stands, without a comma at its start where a list or an object has just begun.
    Text(&'static str),
    /// The keyword `type`, unless it is empty.
    Type(&'static str),
    /// The keyword `description` with the lines of a doc comment, unless there are none. Each attribute of an item gives
    /// its lines; one that is no doc comment gives none.
    Description(&'static [&'static [&'static str]]),
    /// The default of a key, from its Rust expression.
    Default {
        /// The expression.
        code: &'static str,
        /// What `Type::new()` and `Type::default()` stand for.
        of_type: &'static Json,
        /// The variants of an enum, and their texts.
        variants: &'static [(&'static str, &'static str)],
    },
    /// The keywords for a range in Rust's notation: `0.0..1.0`, `1..`, `0..=100`, `above 0.0..=86400.0`.
    Range(&'static str),
    /// One after the other.
    Join(&'static [Json]),
}

impl Json {
    /// The number of its bytes.
    #[allow(clippy::len_without_is_empty, reason = "JSON is never empty")]
    pub const fn len(&self) -> usize {
        let mut writer = Writer { bytes: &mut [], length: 0, last: 0 };
        self.write(&mut writer);
        writer.length
    }

    /// Its bytes; `N` is [`len`](Self::len).
    pub const fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        let mut writer = Writer { bytes: &mut bytes, length: 0, last: 0 };
        self.write(&mut writer);
        assert!(writer.length == N);
        bytes
    }

    const fn write(&self, out: &mut Writer<'_>) {
        match self {
            Self::Text(text) => out.text(text.as_bytes()),
            Self::Type(name) => {
                if !name.is_empty() {
                    out.text(b",\"type\":\"");
                    out.text(name.as_bytes());
                    out.byte(b'"');
                }
            }
            Self::Description(attributes) => out.description(attributes),
            Self::Default { code, of_type, variants } => {
                default(code.as_bytes(), of_type, variants, out);
            }
            Self::Range(code) => range(code.as_bytes(), out),
            Self::Join(pieces) => {
                let mut index = 0;
                while index < pieces.len() {
                    pieces[index].write(out);
                    index += 1;
                }
            }
        }
    }
}

impl std::fmt::Display for Json {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut bytes = vec![0; self.len()];
        self.write(&mut Writer { bytes: &mut bytes, length: 0, last: 0 });
        f.write_str(&String::from_utf8_lossy(&bytes))
    }
}

/// Where bytes are written. Those that have no room are counted only.
struct Writer<'a> {
    bytes: &'a mut [u8],
    length: usize,
    last: u8,
}

impl Writer<'_> {
    const fn byte(&mut self, byte: u8) {
        if self.length < self.bytes.len() {
            self.bytes[self.length] = byte;
        }
        self.length += 1;
        self.last = byte;
    }

    const fn text(&mut self, text: &[u8]) {
        let mut index = matches!((self.last, text), (b'{' | b'[', [b',', ..])) as usize;
        while index < text.len() {
            self.byte(text[index]);
            index += 1;
        }
    }

    /// A byte inside of a string.
    const fn escaped(&mut self, byte: u8) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        match byte {
            b'"' | b'\\' => {
                self.byte(b'\\');
                self.byte(byte);
            }
            b'\n' => self.text(b"\\n"),
            0..0x20 | 0x7f => {
                self.text(b"\\u00");
                self.byte(HEX[(byte >> 4) as usize]);
                self.byte(HEX[(byte & 15) as usize]);
            }
            _ => self.byte(byte),
        }
    }

    /// The lines, without the space that each begins with and without empty lines at the end.
    const fn description(&mut self, attributes: &[&[&str]]) {
        let (mut breaks, mut attribute) = (0, 0);
        let mut is_first = true;
        while attribute < attributes.len() {
            let lines = attributes[attribute];
            let mut number = 0;
            while number < lines.len() {
                let line = lines[number].as_bytes().trim_ascii_end();
                let line = if let [b' ', rest @ ..] = line { rest } else { line };
                breaks += 1;
                if !line.is_empty() {
                    if is_first {
                        self.text(b",\"description\":\"");
                        (is_first, breaks) = (false, 0);
                    }
                    while breaks > 0 {
                        self.text(b"\\n");
                        breaks -= 1;
                    }
                    let mut index = 0;
                    while index < line.len() {
                        self.escaped(line[index]);
                        index += 1;
                    }
                }
                number += 1;
            }
            attribute += 1;
        }
        if !is_first {
            self.byte(b'"');
        }
    }
}

const NO_DEFAULT: &str = "the default of a configuration key must be seen without running code: a literal, `None`, \
    `Some(literal)`, `vec![literals]`, a variant, `Type::new()` or `Type::default()`";

/// Writes the default of a key.
const fn default(code: &[u8], of_type: &Json, variants: &[(&str, &str)], out: &mut Writer<'_>) {
    let code = code.trim_ascii();
    if equal(code, b"None") {
        out.text(b"null");
    } else if equal(code, b"true") || equal(code, b"false") {
        out.text(code);
    } else if let Some(inner) = between(code, b"Some(", b")") {
        default(inner, of_type, variants, out);
    } else if let Some(items) = between(code, b"vec![", b"]") {
        list(items, of_type, variants, out);
    } else if ends_with(code, b"::new()") || ends_with(code, b"::default()") {
        of_type.write(out);
    } else if let [b'"', ..] = code {
        string(code, b'"', out);
    } else if let [b'\'', ..] = code {
        string(code, b'\'', out);
    } else if let [b'-' | b'0'..=b'9', ..] = code {
        number(code, out);
    } else if let Some(at) = find(code, b"::from(") {
        let (_, rest) = code.split_at(at + 7);
        match between(rest, b"", b")") {
            Some(inner) => default(inner, of_type, variants, out),
            None => panic!("{}", NO_DEFAULT),
        }
    } else {
        variant(code, variants, out);
    }
}

/// A string or a character, which a conversion may follow.
const fn string(code: &[u8], quote: u8, out: &mut Writer<'_>) {
    out.byte(b'"');
    let mut index = 1;
    while index < code.len() && code[index] != quote {
        if code[index] == b'\\' {
            index += 1;
            match code[index] {
                b'n' => out.text(b"\\n"),
                b't' => out.text(b"\\t"),
                b'r' => out.text(b"\\r"),
                b'0' => out.text(b"\\u0000"),
                other @ (b'"' | b'\'' | b'\\') => out.escaped(other),
                _ => panic!("{}", "write this character of a default as it is, not by its number"),
            }
        } else {
            out.escaped(code[index]);
        }
        index += 1;
    }
    assert!(index < code.len(), "{}", NO_DEFAULT);
    let (_, conversion) = code.split_at(index + 1);
    let known = conversion.is_empty()
        || equal(conversion, b".into()")
        || equal(conversion, b".to_owned()")
        || equal(conversion, b".to_string()");
    assert!(known, "{}", NO_DEFAULT);
    out.byte(b'"');
}

/// A number in decimal digits: without underscores and without the name of a type behind it.
const fn number(code: &[u8], out: &mut Writer<'_>) {
    let mut index = 0;
    while index < code.len() {
        match code[index] {
            b'_' | b' ' => {}
            b'i' | b'u' | b'f' => break,
            byte @ (b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9') => out.byte(byte),
            _ => panic!("{}", NO_DEFAULT),
        }
        index += 1;
    }
    if out.last == b'.' {
        out.byte(b'0');
    }
}

/// The items of a list of literals.
const fn list(items: &[u8], of_type: &Json, variants: &[(&str, &str)], out: &mut Writer<'_>) {
    out.byte(b'[');
    let (mut rest, mut at, mut is_quoted) = (items, 0, false);
    while at <= rest.len() {
        if at == rest.len() || (rest[at] == b',' && !is_quoted) {
            let (item, behind) = rest.split_at(at);
            if !item.trim_ascii().is_empty() {
                out.text(b",");
                default(item, of_type, variants, out);
            }
            rest = if let [b',', behind @ ..] = behind { behind } else { return out.byte(b']') };
            at = 0;
            continue;
        }
        match rest[at] {
            b'"' => is_quoted = !is_quoted,
            b'\\' => at += 1,
            _ => {}
        }
        at += 1;
    }
}

/// A variant of an enum by its last name.
const fn variant(code: &[u8], variants: &[(&str, &str)], out: &mut Writer<'_>) {
    let mut index = 0;
    while index < variants.len() {
        let (name, text) = variants[index];
        let is_path = code.len() > name.len() + 2 && code[code.len() - name.len() - 1] == b':';
        if ends_with(code, name.as_bytes()) && (is_path || code.len() == name.len()) {
            out.byte(b'"');
            out.text(text.as_bytes());
            out.byte(b'"');
            return;
        }
        index += 1;
    }
    panic!("{}", NO_DEFAULT)
}

/// Writes the keywords for a range.
const fn range(code: &[u8], out: &mut Writer<'_>) {
    let code = code.trim_ascii();
    let Some(dots) = find(code, b"..") else {
        panic!("{}", "a range has two dots: `[0.0..1.0]`, `[1..]`, `[0..=100]`")
    };
    let (low, high) = code.split_at(dots);
    let (_, high) = high.split_at(2);
    let low = low.trim_ascii();
    if let Some(above) = between(low, b"above", b"") {
        out.text(b",\"exclusiveMinimum\":");
        number(above.trim_ascii(), out);
    } else if !low.is_empty() {
        out.text(b",\"minimum\":");
        number(low, out);
    }
    if let [b'=', most @ ..] = high {
        out.text(b",\"maximum\":");
        number(most.trim_ascii(), out);
    } else if !high.trim_ascii().is_empty() {
        out.text(b",\"exclusiveMaximum\":");
        number(high.trim_ascii(), out);
    }
}

const fn equal(text: &[u8], other: &[u8]) -> bool {
    text.len() == other.len() && starts_with(text, other)
}

const fn starts_with(text: &[u8], start: &[u8]) -> bool {
    let mut index = 0;
    while index < start.len() {
        if index >= text.len() || text[index] != start[index] {
            return false;
        }
        index += 1;
    }
    true
}

const fn ends_with(text: &[u8], end: &[u8]) -> bool {
    text.len() >= end.len() && equal(text.split_at(text.len() - end.len()).1, end)
}

/// What is between a start and an end.
const fn between<'a>(text: &'a [u8], start: &[u8], end: &[u8]) -> Option<&'a [u8]> {
    if text.len() < start.len() + end.len() || !starts_with(text, start) || !ends_with(text, end) {
        return None;
    }
    Some(text.split_at(text.len() - end.len()).0.split_at(start.len()).1)
}

const fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    let mut at = 0;
    while at + what.len() <= text.len() {
        if starts_with(text.split_at(at).1, what) {
            return Some(at);
        }
        at += 1;
    }
    None
}
