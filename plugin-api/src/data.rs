//! What a data plugin provides: a source of examples.

use crate::{Example, Result};

/// A source of examples, read from the beginning to the end.
///
/// One source reads one place ([`crate::Setup::source`]: a file, a directory, a name). One thread uses it at a time, not
/// always the same one. The order must be the same every time; the host shuffles.
#[allow(clippy::len_without_is_empty, reason = "the length is not always known")]
pub trait DataSource: Send {
    /// How many examples there are, where that is known without reading them.
    fn len(&self) -> Option<u64>;

    /// The next example, or `None` at the end.
    ///
    /// # Errors
    /// A row that cannot be read: the error names file and row. The source may not be used afterwards.
    fn next(&mut self) -> Result<Option<Example>>;

    /// The position in the source, as text for [`DataSource::restore`].
    fn state(&self) -> Result<String>;

    /// Continues from a position that [`DataSource::state`] gave.
    fn restore(&mut self, state: &str) -> Result<()>;
}
