//! Standard output, whose reader may go away at any time.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

use crate::exit::{Failure, Status};

/// Writes a text and a line break to standard output. That nobody reads it any more, as under `| head`, is no failure.
///
/// # Errors
/// Standard output cannot be written, such as a file on a full disk.
pub(super) fn print(text: impl Display) -> Result<(), Failure> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(Status::Other, "standard output cannot be written").because(error))
        }
        _ => Ok(()),
    }
}
