//! Files that are damaged: one error for whatever the libraries that read them meet in one, panics included.

use std::any::Any;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use mdt_plugin_api::{Error, Result};

/// The result of `read`, which reads a part of a file of this kind. These libraries are written for files that programs have
/// made: some of what a damaged one may hold makes them panic.
pub(crate) fn checked<T, E: Display>(path: &Path, kind: &str, read: impl FnOnce() -> Result<T, E>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(damaged(path, kind, error)),
        Err(panic) => Err(damaged(path, kind, text(&*panic))),
    }
}

/// The error for a file of this kind that is not as it was written.
pub(crate) fn damaged(path: &Path, kind: &str, cause: impl Display) -> Error {
    Error::input(format!("the {kind} file is damaged or cut off"))
        .with("file", path.display())
        .caused_by(cause)
        .help("fetch or write it again")
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("its lengths contradict each other").to_owned()
}
