//! Rows as pieces of text: the lines of JSON Lines or the elements of one array.

use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;

use mdt_plugin_api::{Error, Result};

use super::array::{self, After, Elements};
use super::lines::{self, Lines};
use crate::open::{self, Data};

/// How many rows apart the places of an index are: few of them are in memory, and few rows are read to find one.
pub(super) const APART: u64 = 32;

/// The text of one row, and where in the file it is.
pub(super) struct Row<'a> {
    /// Its number from 1: of its line, or in its array.
    pub number: u64,
    /// The line that it begins in, from 1.
    pub line: u64,
    /// The character of that line that it begins with, from 1.
    pub column: usize,
    pub text: &'a [u8],
}

/// Where a row begins.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Line(lines::Position),
    Element(array::Position),
}

/// Reads rows.
pub(super) enum Rows {
    Lines(Lines<BufReader<Data>>),
    Array(Elements<BufReader<Data>>),
}

impl Rows {
    /// A file whose first character is a bracket is one array: no line of JSON Lines that holds a row begins so.
    pub fn new(data: Data) -> io::Result<Self> {
        let mut reader = BufReader::with_capacity(1 << 18, data);
        let is_array = begins_with_bracket(&mut reader)?;
        reader.seek(SeekFrom::Start(0))?;
        Ok(if is_array { Self::Array(Elements::new(reader)?) } else { Self::Lines(Lines::new(reader)) })
    }

    /// The next row, and for one of an array what follows it.
    pub fn next(&mut self) -> io::Result<Option<(Row<'_>, Option<After>)>> {
        match self {
            Self::Lines(lines) => {
                Ok(lines.next()?.map(|(number, text)| (Row { number, line: number, column: 1, text }, None)))
            }
            Self::Array(elements) => Ok(elements.next()?.map(|(row, after)| (row, Some(after)))),
        }
    }

    /// Line and column of text after the closed array, if there is any; to be called after the last row.
    pub fn trailing(&mut self) -> io::Result<Option<(u64, usize)>> {
        match self {
            Self::Lines(_) => Ok(None),
            Self::Array(elements) => elements.trailing(),
        }
    }

    /// Where the next row begins, as text.
    pub fn state(&self) -> String {
        match self {
            Self::Lines(lines) => lines.position().to_string(),
            Self::Array(elements) => elements.position().to_string(),
        }
    }

    /// Which rows begin where, of a file that can be entered anywhere: that of every so many rows.
    ///
    /// # Errors
    /// As for [`Rows::next`]; `look` ends the reading.
    pub fn index(&mut self, mut look: impl FnMut(u64) -> Result<()>, path: &Path) -> Result<(u64, Option<Vec<Place>>)> {
        let unreadable = |error: io::Error| open::unreadable(path, &error);
        let data = match self {
            Self::Lines(lines) => lines.get_ref().get_ref(),
            Self::Array(elements) => elements.get_ref().get_ref(),
        };
        let (mut count, mut places) = (0, matches!(data, Data::Plain(_)).then(Vec::new));
        loop {
            if let Some(places) = places.as_mut().filter(|_| count % APART == 0) {
                places.push(match self {
                    Self::Lines(lines) => Place::Line(lines.position()),
                    Self::Array(elements) => Place::Element(elements.position()),
                });
            }
            if self.next().map_err(unreadable)?.is_none() {
                return Ok((count, places));
            }
            count += 1;
            if count % 1024 == 0 {
                look(count)?;
            }
        }
    }

    /// The state before the row that comes this many rows after a place.
    pub fn state_after(&mut self, place: Place, rows: u64) -> io::Result<String> {
        match (&mut *self, place) {
            (Self::Lines(lines), Place::Line(place)) => lines.seek(place)?,
            (Self::Array(elements), Place::Element(place)) => _ = elements.seek(place)?,
            _ => {}
        }
        for _ in 0..rows {
            self.next()?;
        }
        Ok(self.state())
    }

    /// Continues where [`Rows::state`] was taken.
    pub fn restore(&mut self, path: &Path, state: &str) -> Result<()> {
        let in_file = |error: Error| error.with("file", path.display());
        let unreadable = |error: io::Error| open::unreadable(path, &error);
        let changed = |what: String| Err(in_file(Error::input(format!("the data file has changed: {what}"))));
        match self {
            Self::Lines(lines) => {
                let position = state.parse().map_err(in_file)?;
                if !lines.line_begins(position).map_err(unreadable)? {
                    return changed(format!("no line begins at {position} any more"));
                }
                lines.seek(position).map_err(unreadable)
            }
            Self::Array(elements) => {
                let position: array::Position = state.parse().map_err(in_file)?;
                if !elements.seek(position).map_err(unreadable)? {
                    return changed(format!("no row begins {position} any more"));
                }
                Ok(())
            }
        }
    }
}

fn begins_with_bracket(reader: &mut impl BufRead) -> io::Result<bool> {
    let mut first = true;
    loop {
        let bytes = reader.fill_buf()?;
        let length = bytes.len();
        let text = if first { bytes.strip_prefix(lines::BYTE_ORDER_MARK).unwrap_or(bytes) } else { bytes };
        first = false;
        if let Some(byte) = text.trim_ascii_start().first() {
            return Ok(*byte == b'[');
        }
        if length == 0 {
            return Ok(false);
        }
        reader.consume(length);
    }
}
