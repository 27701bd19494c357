//! Writing to standard output.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

use crate::exit::{Failure, Status};
use crate::generation::Listener;
use crate::terminal::printable;

/// Writes a text and a line break to standard output, with control characters escaped. A reader that has closed the
/// pipe, such as `head`, is not an error.
///
/// # Errors
/// Standard output cannot be written, such as a file on a full disk.
pub(super) fn print(text: impl Display) -> Result<(), Failure> {
    print_painted(printable(&text.to_string()))
}

/// Writes a part of a line to standard output at once, with control characters escaped.
///
/// # Errors
/// As for [`print`].
pub(super) fn print_part(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    written(out.write_all(printable(text).as_bytes()).and_then(|()| out.flush()))
}

/// Writes a text that has colours in it, and whose other control characters are escaped already.
pub(super) fn print_painted(text: impl Display) -> Result<(), Failure> {
    written(writeln!(io::stdout().lock(), "{text}"))
}

fn written(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(Status::Other, "standard output cannot be written").because(error))
        }
        _ => Ok(()),
    }
}

/// Prints an answer as it comes, if it `prints`, until `is_interrupted` says that it ends.
pub(super) struct AnswerPrinter<F> {
    pub(super) prints: bool,
    pub(super) is_interrupted: F,
}

impl<F: Fn() -> bool> Listener for AnswerPrinter<F> {
    fn text(&mut self, _prompt: usize, text: &str) -> Result<(), Failure> {
        if self.prints && !text.is_empty() { print_part(text) } else { Ok(()) }
    }

    fn is_interrupted(&self) -> bool {
        (self.is_interrupted)()
    }
}
