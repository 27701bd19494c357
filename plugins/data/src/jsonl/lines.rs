//! Lines of a JSON Lines file with their numbers and positions, and how to continue at one.

use std::fmt;
use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::str::FromStr;

use mdt_plugin_api::Error;

/// The byte order mark, which some programs put at the start of a UTF-8 file.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The longest row in bytes. A few compressed bytes can stand for a row without end.
pub(super) const LONGEST: usize = 64 << 20;

/// A position between two lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// Bytes before it.
    offset: u64,
    /// Lines before it.
    line: u64,
}

impl Position {
    /// Before the first line.
    pub const START: Self = Self { offset: 0, line: 0 };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {} after {} lines", self.offset, self.line)
    }
}

impl FromStr for Position {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let numbers = text
            .strip_prefix("byte ")
            .and_then(|rest| rest.strip_suffix(" lines"))
            .and_then(|rest| rest.split_once(" after "))
            .and_then(|(offset, line)| Some(Self { offset: offset.parse().ok()?, line: line.parse().ok()? }));
        numbers.ok_or_else(|| Error::input(format!("{text:?} is not a place in a JSON Lines file")))
    }
}

/// Reads line by line, with one buffer for all lines.
pub(super) struct Lines<R> {
    reader: R,
    position: Position,
    buffer: Vec<u8>,
}

impl<R: BufRead + Seek> Lines<R> {
    /// Reads from the beginning.
    pub fn new(reader: R) -> Self {
        Self { reader, position: Position::START, buffer: Vec::new() }
    }

    /// The next line that is not blank, without its end, and its number from 1. A line longer than [`LONGEST`] is an
    /// error.
    pub fn next(&mut self) -> io::Result<Option<(u64, &[u8])>> {
        // Blank lines before a line that cannot be read are not behind it: the position stays.
        let mut position = self.position;
        loop {
            self.buffer.clear();
            let read = self.reader.by_ref().take(LONGEST as u64 + 1).read_until(b'\n', &mut self.buffer)?;
            if read > LONGEST {
                let message = format!("line {} is longer than {} MiB", position.line + 1, LONGEST >> 20);
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
            }
            if read == 0 {
                self.position = position;
                return Ok(None);
            }
            let mark = if position == Position::START && self.buffer.starts_with(BYTE_ORDER_MARK) {
                BYTE_ORDER_MARK.len()
            } else {
                0
            };
            position.offset += read as u64;
            position.line += 1;
            if !self.buffer[mark..].trim_ascii().is_empty() {
                self.position = position;
                return Ok(Some((self.position.line, self.buffer[mark..].trim_ascii_end())));
            }
        }
    }

    /// What it reads.
    pub fn get_ref(&self) -> &R {
        &self.reader
    }

    /// Where the next line begins.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Continues at a position.
    pub fn seek(&mut self, position: Position) -> io::Result<()> {
        self.reader.seek(SeekFrom::Start(position.offset))?;
        self.position = position;
        Ok(())
    }

    /// Whether a line begins (or the file ends) at this position. Moves the reader.
    pub fn line_begins(&mut self, position: Position) -> io::Result<bool> {
        let end = self.reader.seek(SeekFrom::End(0))?;
        if position.offset == 0 || position.offset >= end {
            return Ok(position.offset <= end);
        }
        self.reader.seek(SeekFrom::Start(position.offset - 1))?;
        Ok(self.reader.fill_buf()?.first() == Some(&b'\n'))
    }
}
