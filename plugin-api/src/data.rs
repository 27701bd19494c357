//! What a data plugin provides: a source of examples.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::{Error, Example, Result};

/// How many rows a source has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Length {
    /// So many.
    Rows(u64),
    /// It ends, and how many there are is known when all have been read.
    Unknown,
    /// It never ends. Training on it takes `trainer.max_steps`.
    Endless,
}

/// A source of examples, read from the beginning to the end.
///
/// One source reads one place ([`crate::Setup::source`]: a file, a directory, a name). One thread uses it at a time, not
/// always the same one. The order must be the same every time: the host shuffles, mixes sources by weight, reads ahead,
/// and holds rows out for evaluation. Sources that are read whole are read once; those that stream are read again for
/// each pass, from the state that they were created in, and continued from any state after a resume.
///
/// A source of three rows:
///
/// ```
/// use mdt_plugin_api::prelude::*;
///
/// struct Words(usize);
///
/// impl DataSource for Words {
///     fn length(&mut self) -> Result<Length> {
///         Ok(Length::Rows(3))
///     }
///
///     fn next(&mut self) -> Result<Option<Example>> {
///         let Some(word) = ["one", "two", "three"].get(self.0) else { return Ok(None) };
///         self.0 += 1;
///         Ok(Some(Example::new(self.0 as u64).with("text", *word)))
///     }
///
///     fn state(&self) -> Result<String> {
///         Ok(self.0.to_string())
///     }
///
///     fn restore(&mut self, state: &str) -> Result<()> {
///         self.0 = state.parse().map_err(|_| Error::input(format!("{state:?} is no number of rows")))?;
///         Ok(())
///     }
/// }
/// ```
pub trait DataSource: Send {
    /// How many rows there are, from the first to the last, wherever the source is now.
    ///
    /// A source may read its rows to count them; the next row stays the same. The host asks only where it has to plan
    /// epochs, or where `data.streaming` does not say how to read. A source that gives another number of rows than it
    /// says is an error.
    ///
    /// # Errors
    /// Rows cannot be counted, or [`crate::HostServices::cancelled`] became true meanwhile.
    fn length(&mut self) -> Result<Length>;

    /// The next row, or `None` at the end.
    ///
    /// # Errors
    /// A row that cannot be read: the error names file and row. If only this row is at fault, the source stands behind it
    /// afterwards, as [`DataSource::state`] says, so that a job with `data.on_bad_row = "skip"` goes on there. Otherwise its state
    /// stays as it was, and it is not used any more.
    fn next(&mut self) -> Result<Option<Example>>;

    /// The position before the next row, as text for [`DataSource::restore`]. It is asked for after every row, and kept
    /// in checkpoints: a number of bytes, of rows or of groups of rows.
    fn state(&self) -> Result<String>;

    /// Continues from a position that [`DataSource::state`] gave, of this source or of another one over the same data:
    /// forward or back, before the first row or after the last.
    ///
    /// # Errors
    /// The text is no position, or the data was changed so that it is none any more.
    fn restore(&mut self, state: &str) -> Result<()>;

    /// The state before the row of this place, from 0, in the order of the rows; at most [`DataSource::length`].
    ///
    /// A source that knows it without reading the rows before can be read in any order: the rows of a large one are then read
    /// when their turn in training comes, and not before training. None, as here, for one that does not. It is the same for all
    /// rows of a source.
    ///
    /// # Errors
    /// As for [`DataSource::length`].
    fn state_of(&mut self, _row: u64) -> Result<Option<String>> {
        Ok(None)
    }

    /// Up to `most` next rows; none at the end. The host reads by this call.
    ///
    /// This one calls [`DataSource::next`] and [`DataSource::state`] in turn, and ends after a fiftieth of a second or a
    /// few megabytes. A source that reads whole groups of rows anyway, such as a columnar file, may give them at once.
    ///
    /// # Errors
    /// As for [`DataSource::next`], where the first row cannot be read.
    fn batch(&mut self, most: usize) -> Result<RowBatch> {
        let begin = Instant::now();
        let mut batch = RowBatch::default();
        let mut size = 0;
        while batch.rows.len() < most && size < FULL && begin.elapsed() < LONGEST {
            match self.next() {
                Ok(None) => break,
                Ok(Some(example)) => {
                    size += example.size();
                    batch.rows.push(Row { example, state: self.state()? });
                }
                Err(error) if batch.rows.is_empty() => return Err(error),
                Err(error) => {
                    batch.error = Some(error);
                    break;
                }
            }
        }
        Ok(batch)
    }
}

/// The size in bytes of examples from which on a batch is full.
const FULL: usize = 4 << 20;

/// How long a batch is filled. A source without end may be slow, and the job can be interrupted between two batches.
const LONGEST: Duration = Duration::from_millis(20);

/// A row, and where its source is after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The row.
    pub example: Example,
    /// The state of the source after it.
    pub state: String,
}

/// Rows that were read by one call.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RowBatch {
    /// The rows, in their order.
    pub rows: Vec<Row>,
    /// What reading the row after these met.
    #[serde(default)]
    pub error: Option<Error>,
}
