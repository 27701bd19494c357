//! The Hugging Face Hub: what it has under a name, in the cache that `huggingface_hub` uses, too.
//!
//! ```text
//! <cache>/models--ORG--NAME/
//!     refs/main                  the commit of a revision
//!     snapshots/COMMIT/FILE      a link to a blob
//!     blobs/ETAG                 a whole, checked file; ETAG.incomplete is one that is still being downloaded
//!     .mdt-listing/COMMIT        the names of all files of the commit
//! <cache>/.locks/models--ORG--NAME/
//! ```
//!
//! What is in the cache is used as it is, without a word to the hub: a job goes on with the files that it began with. What is not
//! there is downloaded by one process, and the others wait for it. A file has its name in a snapshot once it is whole and its
//! checksum is right; nothing else is ever read.

mod cache;
mod client;
mod download;
mod environment;
mod push;
mod wanted;

pub use cache::Repository;
pub use environment::Environment;
pub use push::push;
pub use wanted::Wanted;

use std::path::PathBuf;

use crate::exit::Failure;

/// What a repository has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A model.
    Model,
    /// Rows of data.
    Dataset,
}

impl Kind {
    /// As the hub's addresses and the cache call it.
    fn name(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }
}

/// Whether a text looks like the name of a repository, `org/name`.
pub fn is_name(text: &str) -> bool {
    let part = |part: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !part.is_empty() && part.chars().all(known) && !part.starts_with(['.', '-']) && !part.ends_with(['.', '-'])
    };
    let mut parts = text.split('/');
    matches!((parts.next(), parts.next(), parts.next()), (Some(org), Some(name), None) if part(org) && part(name))
        && !text.contains("--")
        && !text.contains("..")
        && text.len() <= 96
}

/// The directory of a repository in the cache, with all files that are wanted; none where one is missing.
///
/// # Errors
/// The name is none.
pub fn cached(kind: Kind, name: &str, revision: Option<&str>, wanted: &Wanted<'_>) -> Result<Option<PathBuf>, Failure> {
    Repository::new(Environment::of_this_process(), kind, name, revision)?.cached(wanted)
}

/// The same, where they are downloaded if they are missing. Processes that ask for the same wait for each other. `cancelled` says
/// whether the user has had enough.
///
/// # Errors
/// Status 4: the hub has no such repository, revision or file, or does not give it to this user, or cannot be reached; what came was
/// damaged. 130: it was cancelled; what has come so far is kept, and gone on with the next time.
pub fn snapshot(
    kind: Kind,
    name: &str,
    revision: Option<&str>,
    wanted: &Wanted<'_>,
    cancelled: &dyn Fn() -> bool,
) -> Result<PathBuf, Failure> {
    let repository = Repository::new(Environment::of_this_process(), kind, name, revision)?;
    download::snapshot(&repository, wanted, cancelled)
}

/// The names of all files of a repository (paths within it), as the cache knows them, or else the hub. Nothing is downloaded.
///
/// # Errors
/// As for [`snapshot`].
pub fn files(
    kind: Kind,
    name: &str,
    revision: Option<&str>,
    cancelled: &dyn Fn() -> bool,
) -> Result<Vec<String>, Failure> {
    download::files(&Repository::new(Environment::of_this_process(), kind, name, revision)?, cancelled)
}

#[cfg(test)]
mod tests;
