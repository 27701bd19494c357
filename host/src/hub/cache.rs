//! A repository in the cache.

use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};

use super::{Environment, Kind, Wanted, is_name};
use crate::exit::{Failure, Status};
use crate::storage;

/// A repository of the hub at a revision.
pub struct Repository {
    pub(super) environment: Environment,
    pub(super) kind: Kind,
    /// `org/name`.
    pub(super) name: String,
    /// A branch, a tag or a commit.
    pub(super) revision: String,
}

impl Repository {
    /// A repository; the revision is `main` by default.
    ///
    /// # Errors
    /// The name or the revision is none.
    pub fn new(environment: Environment, kind: Kind, name: &str, revision: Option<&str>) -> Result<Self, Failure> {
        if !is_name(name) {
            return Err(Failure::configuration(format!("{name:?} is no name on the Hugging Face Hub")).help(
                "a name is an organisation or a user and a repository: `org/name`; a directory is named by its path",
            ));
        }
        let revision = revision.unwrap_or("main");
        let known = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        if revision.is_empty() || !revision.chars().all(known) || revision.contains("..") || revision.starts_with('/') {
            return Err(Failure::configuration(format!("{revision:?} is no revision of {name}"))
                .help("a revision is a branch, a tag or a commit"));
        }
        Ok(Self { environment, kind, name: name.to_owned(), revision: revision.to_owned() })
    }

    fn folder(&self) -> String {
        format!("{}--{}", self.kind.name(), self.name.replace('/', "--"))
    }

    /// Its directory.
    pub(super) fn place(&self) -> PathBuf {
        self.environment.cache.join(self.folder())
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.place().join("snapshots").join(commit)
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.place().join("blobs").join(etag)
    }

    /// The commit that the cache has for the revision.
    pub(super) fn known_commit(&self) -> Option<String> {
        if is_commit(&self.revision) {
            return Some(self.revision.clone());
        }
        let commit = fs::read_to_string(self.place().join("refs").join(&self.revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// The snapshot in the cache, if it has all files that are wanted.
    ///
    /// # Errors
    /// None yet; a cache that cannot be read has nothing.
    pub fn cached(&self, wanted: &Wanted<'_>) -> Result<Option<PathBuf>, Failure> {
        let Some(commit) = self.known_commit() else { return Ok(None) };
        let snapshot = self.snapshot(&commit);
        let is_there = |name: &str| snapshot.join(name).is_file();
        let is_complete = match (self.listing(&commit), wanted) {
            (Some(files), _) => wanted.of(&files).into_iter().all(is_there),
            // Another program has downloaded it, perhaps in part.
            (None, Wanted::Those(_)) => false,
            (None, Wanted::Model { weights }) => {
                let tokenizer = ["tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json"];
                is_there("config.json") && tokenizer.into_iter().any(is_there) && (!weights || has_weights(&snapshot))
                    || is_there("adapter_config.json") && is_there("adapter_model.safetensors")
            }
        };
        Ok(is_complete.then_some(snapshot))
    }

    /// A snapshot that another program has downloaded, if it may be whole.
    pub(super) fn perhaps_whole(&self) -> Option<PathBuf> {
        let snapshot = self.snapshot(&self.known_commit()?);
        fs::read_dir(&snapshot).ok()?.next()?.ok()?;
        Some(snapshot)
    }

    pub(super) fn listing(&self, commit: &str) -> Option<Vec<String>> {
        serde_json::from_slice(&fs::read(self.place().join(".mdt-listing").join(commit)).ok()?).ok()
    }

    /// Remembers the files of a commit.
    pub(super) fn set_listing(&self, commit: &str, files: &[String]) -> Result<(), Failure> {
        let text = serde_json::to_vec(files).map_err(|error| self.unwritable(&self.place(), &error.into()))?;
        self.write(&self.place().join(".mdt-listing").join(commit), &text)
    }

    /// Remembers the commit of the revision.
    pub(super) fn set_commit(&self, commit: &str) -> Result<(), Failure> {
        if is_commit(&self.revision) {
            return Ok(());
        }
        self.write(&self.place().join("refs").join(&self.revision), commit.as_bytes())
    }

    /// Gives a blob its name in a snapshot.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<(), Failure> {
        if !Path::new(file).components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(self.failure(format!("the hub has a file with the name {file:?}")));
        }
        let link = self.snapshot(commit).join(file);
        let up = "../".repeat(2 + file.matches('/').count());
        let linked = self.room_for(&link).and_then(|()| {
            let temporary = link.with_file_name(format!(".{}.link", etag));
            let _ = fs::remove_file(&temporary);
            symlink(Path::new(&format!("{up}blobs/{etag}")), &self.blob(etag), &temporary)?;
            fs::rename(&temporary, &link)
        });
        linked.map_err(|error| self.unwritable(&link, &error))
    }

    /// Opens the file by which one process of this machine has what it names for itself.
    pub(super) fn lock_file(&self, name: &str) -> Result<File, Failure> {
        let path = self.environment.cache.join(".locks").join(self.folder()).join(format!("{name}.lock"));
        let open = || {
            self.room_for(&path)?;
            File::options().create(true).truncate(false).write(true).open(&path)
        };
        open().map_err(|error| self.unwritable(&path, &error))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), Failure> {
        let write = || {
            self.room_for(path)?;
            let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
            storage::write(&temporary, bytes)?;
            fs::rename(&temporary, path)
        };
        write().map_err(|error| self.unwritable(path, &error))
    }

    pub(super) fn room_for(&self, path: &Path) -> io::Result<()> {
        path.parent().map_or(Ok(()), fs::create_dir_all)
    }

    pub(super) fn unwritable(&self, path: &Path, error: &io::Error) -> Failure {
        self.failure("what is downloaded cannot be written to the cache")
            .at(path.display())
            .because(error)
            .help("make room, or name another place: HF_HOME or HF_HUB_CACHE")
    }

    /// A failure of this repository.
    pub(super) fn failure(&self, message: impl Into<String>) -> Failure {
        Failure::new(Status::Input, message.into()).at(self.address())
    }

    /// Where users find it.
    pub(super) fn address(&self) -> String {
        let kind = if self.kind == Kind::Dataset { "datasets/" } else { "" };
        let at = if self.revision == "main" { String::new() } else { format!(" at {}", self.revision) };
        format!("{}/{kind}{}{at}", self.environment.endpoint, self.name)
    }
}

/// Whether a revision is a whole commit, which never changes.
fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a snapshot has all its weights.
fn has_weights(snapshot: &Path) -> bool {
    if snapshot.join("model.safetensors").is_file() {
        return true;
    }
    let index = fs::read(snapshot.join(super::wanted::INDEX)).unwrap_or_default();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap_or_default();
    let shards = index["weight_map"].as_object();
    shards.is_some_and(|map| map.values().all(|name| name.as_str().is_some_and(|name| snapshot.join(name).is_file())))
}

#[cfg(unix)]
fn symlink(target: &Path, _blob: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(not(unix))]
fn symlink(_target: &Path, blob: &Path, link: &Path) -> io::Result<()> {
    fs::copy(blob, link).map(drop)
}
