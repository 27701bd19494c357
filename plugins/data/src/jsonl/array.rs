//! The elements of one JSON array with their numbers and positions, read one by one.

use std::fmt;
use std::io::{self, BufRead, Seek, SeekFrom};
use std::str::FromStr;

use mdt_plugin_api::Error;

use super::lines::LONGEST;
use super::rows::Row;

/// A position between two elements, behind the bracket or the comma before the next one, or behind the last bracket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// Elements before it.
    pub rows: u64,
    /// Bytes before it, and the line and column of the character behind it; none where an earlier version wrote it.
    place: Option<(u64, u64, usize)>,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((offset, line, column)) = self.place {
            write!(f, "byte {offset} line {line} column {column} ")?;
        }
        write!(f, "after {} rows of an array", self.rows)
    }
}

impl FromStr for Position {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let rest = text.strip_suffix(" rows of an array");
        let parts =
            rest.and_then(|rest| rest.strip_prefix("after ").map(|rows| ("", rows)).or(rest.split_once(" after ")));
        let parsed = parts.and_then(|(place, rows)| {
            let words: Vec<&str> = place.split(' ').collect();
            let place = match words[..] {
                [""] => None,
                ["byte", offset, "line", line, "column", column] => {
                    Some((offset.parse().ok()?, line.parse().ok()?, column.parse().ok()?))
                }
                _ => return None,
            };
            Some(Self { rows: rows.parse().ok()?, place })
        });
        parsed.ok_or_else(|| Error::input(format!("{text:?} is not a place in a file that is one JSON array")))
    }
}

/// What follows an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// A comma, and so another element.
    Comma,
    /// The bracket that closes the array.
    Bracket,
    /// The end of the file, where a comma or a bracket was expected.
    Nothing,
}

/// Splits an array into its elements by looking at brackets and strings only, so that one element at a time is in memory.
/// The parser of a row checks whether the element is valid JSON.
pub(super) struct Elements<R> {
    reader: R,
    rows: u64,
    /// The bytes before the next character.
    offset: u64,
    line: u64,
    column: usize,
    /// The same three where the next element begins.
    next: (u64, u64, usize),
    /// What followed the last element; before the first one, a comma.
    after: After,
    buffer: Vec<u8>,
}

impl<R: BufRead + Seek> Elements<R> {
    /// Reads from the beginning of a text whose first character, but for white space, is the array's bracket.
    pub fn new(reader: R) -> io::Result<Self> {
        let mut elements = Self {
            reader,
            rows: 0,
            offset: 0,
            line: 1,
            column: 1,
            next: (0, 1, 1),
            after: After::Comma,
            buffer: Vec::new(),
        };
        elements.rewind()?;
        Ok(elements)
    }

    /// Before the first element.
    fn rewind(&mut self) -> io::Result<()> {
        self.reader.seek(SeekFrom::Start(0))?;
        (self.rows, self.offset, self.line, self.column, self.after) = (0, 0, 1, 1, After::Comma);
        while let Some(byte) = self.byte()? {
            if byte == b'[' {
                break;
            }
            // A byte order mark is no character of the text.
            if byte >= 0x80 {
                self.column = 1;
            }
        }
        self.next = (self.offset, self.line, self.column);
        Ok(())
    }

    /// The next element, with what follows it. What is cut off, or is not there between two commas, is given as it is,
    /// for the parser to refuse; only `[]` has no element.
    pub fn next(&mut self) -> io::Result<Option<(Row<'_>, After)>> {
        if self.after != After::Comma {
            return Ok(None);
        }
        self.buffer.clear();
        let (mut depth, mut in_string, mut escaped) = (0u64, false, false);
        let mut start = (self.line, self.column);
        let end;
        (self.after, end) = loop {
            let here = (self.line, self.column);
            let Some(byte) = self.byte()? else { break (After::Nothing, here) };
            if in_string {
                in_string = escaped || byte != b'"';
                escaped = !escaped && byte == b'\\';
            } else {
                match byte {
                    b',' if depth == 0 => break (After::Comma, here),
                    b']' if depth == 0 => break (After::Bracket, here),
                    b'"' => in_string = true,
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth = depth.saturating_sub(1),
                    _ => {}
                }
            }
            if self.buffer.is_empty() {
                if byte.is_ascii_whitespace() {
                    continue;
                }
                start = here;
            }
            self.buffer.push(byte);
            if self.buffer.len() > LONGEST {
                let message = format!("row {} is longer than {} MiB", self.rows + 1, LONGEST >> 20);
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
            }
        };
        self.buffer.truncate(self.buffer.trim_ascii_end().len());
        if self.buffer.is_empty() {
            if self.rows == 0 && self.after == After::Bracket {
                return Ok(None);
            }
            start = end;
        }
        let number = self.rows + 1;
        // An element that is cut off has nothing behind it.
        if self.after != After::Nothing {
            self.rows += 1;
            self.next = (self.offset, self.line, self.column);
        }
        let row = Row { number, line: start.0, column: start.1, text: &self.buffer };
        Ok(Some((row, self.after)))
    }

    /// What comes after the closing bracket, but for white space: the line and column where it begins.
    pub fn trailing(&mut self) -> io::Result<Option<(u64, usize)>> {
        loop {
            let here = (self.line, self.column);
            match self.byte()? {
                None => return Ok(None),
                Some(byte) if byte.is_ascii_whitespace() => {}
                Some(_) => return Ok(Some(here)),
            }
        }
    }

    /// What it reads.
    pub fn get_ref(&self) -> &R {
        &self.reader
    }

    /// Where the next element begins.
    pub fn position(&self) -> Position {
        Position { rows: self.rows, place: Some(self.next) }
    }

    /// Continues at a place; `false` if no element begins there, or the array has fewer elements.
    pub fn seek(&mut self, position: Position) -> io::Result<bool> {
        if let Some((offset, line, column)) = position.place {
            let Some(before) = offset.checked_sub(1) else { return Ok(false) };
            self.reader.seek(SeekFrom::Start(before))?;
            self.after = match self.byte()? {
                Some(b',' | b'[') => After::Comma,
                Some(b']') => After::Bracket,
                _ => return Ok(false),
            };
            (self.rows, self.offset, self.line, self.column) = (position.rows, offset, line, column);
            self.next = (offset, line, column);
            return Ok(true);
        }
        self.rewind()?;
        while self.rows < position.rows {
            if self.next()?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The next byte; line and column are then those of the character after it.
    fn byte(&mut self) -> io::Result<Option<u8>> {
        let Some(&byte) = self.reader.fill_buf()?.first() else { return Ok(None) };
        self.reader.consume(1);
        self.offset += 1;
        match byte {
            b'\n' => (self.line, self.column) = (self.line + 1, 1),
            // The later bytes of a character.
            0x80..0xc0 => {}
            _ => self.column += 1,
        }
        Ok(Some(byte))
    }
}
