//! The files by which a model's directory has its tokenizer, as the tokenizer names them: they tell whether rows have the
//! same tokens as before, and are written beside the trained weights.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use mdt_plugin_api::{NamedFile, SharedTokenizer};
use sha2::{Digest, Sha256};

use crate::checksum;
use crate::exit::{Failure, Status};
use crate::storage::{self, unwritable};

/// How to generate, which goes with the model as its tokenizer does.
const GENERATION: &str = "generation_config.json";

/// The files of a tokenizer that was opened from a model's directory.
#[derive(Clone, Debug)]
pub struct TokenizerFiles {
    directory: PathBuf,
    files: Vec<NamedFile>,
}

impl TokenizerFiles {
    /// Asks the tokenizer of this directory.
    ///
    /// # Errors
    /// It fails, or names a file outside of the directory.
    pub fn of(directory: &Path, tokenizer: &SharedTokenizer) -> Result<Self, Failure> {
        Self::named(directory, tokenizer.files()?)
    }

    /// These files.
    ///
    /// # Errors
    /// One is outside of the directory.
    pub fn named(directory: &Path, mut files: Vec<NamedFile>) -> Result<Self, Failure> {
        files.sort_by(|one, other| one.name.cmp(&other.name));
        let outside = |file: &&NamedFile| {
            file.name.is_empty() || !Path::new(&file.name).components().all(|part| matches!(part, Component::Normal(_)))
        };
        match files.iter().find(outside) {
            Some(file) => {
                let message = format!("the tokenizer names {:?} as one of its files", file.name);
                Err(Failure::new(Status::Plugin, message).because("that is no file in the model's directory"))
            }
            None => Ok(Self { directory: directory.to_owned(), files }),
        }
    }

    /// The same with another file of this text.
    #[must_use]
    pub fn with(mut self, name: &str, text: String) -> Self {
        self.files.retain(|file| file.name != name);
        self.files.push(NamedFile { name: name.to_owned(), text: Some(text) });
        self
    }

    /// What a file says, where that is not what the model's own file says.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.files.iter().find(|file| file.name == name)?.text.as_deref()
    }

    /// A checksum of all of them. The keys of the configuration are compared on their own.
    pub fn checksum(&self) -> Result<String, Failure> {
        let mut digest = Sha256::new();
        for NamedFile { name, text } in &self.files {
            let contents = match text {
                Some(text) => Sha256::digest(text),
                None => {
                    let file = self.directory.join(name);
                    Sha256::digest(fs::read(&file).map_err(|error| unreadable(&file, error))?)
                }
            };
            digest.update(name);
            digest.update(contents);
        }
        Ok(checksum::hexadecimal(&digest.finalize()))
    }

    /// Checks that what [`TokenizerFiles::write`] will copy are regular files of the model, before anything is spent.
    ///
    /// # Errors
    /// One is a link out of the model's directory, or is no regular file.
    pub fn check(&self) -> Result<(), Failure> {
        self.copied().map(drop)
    }

    /// Writes them to `to`, which is staged for `target`; messages name that.
    pub fn write(&self, to: &Path, target: &Path) -> Result<(), Failure> {
        let unwritable = |name: &str, error: io::Error| {
            unwritable("the trained model cannot be written", &target.join(name), &error)
        };
        let room = |name: &str| match Path::new(name).parent() {
            Some(parent) => fs::create_dir_all(to.join(parent)).map_err(|error| unwritable(name, error)),
            None => Ok(()),
        };
        for (name, file) in self.copied()? {
            room(name)?;
            // Opened apart from the copy, so that the user hears which of the two files is at fault.
            fs::File::open(&file).map_err(|error| unreadable(&file, error))?;
            storage::copy(&file, &to.join(name)).map_err(|error| unwritable(name, error))?;
        }
        for (name, text) in self.files.iter().filter_map(|file| Some((&file.name, file.text.as_ref()?))) {
            room(name)?;
            storage::write_staged(&to.join(name), text.as_bytes()).map_err(|error| unwritable(name, error))?;
        }
        Ok(())
    }

    /// The files that are copied: their names, and where they are.
    fn copied(&self) -> Result<Vec<(&str, PathBuf)>, Failure> {
        let own = self.files.iter().filter(|file| file.text.is_none()).map(|file| file.name.as_str());
        let generation = Some(GENERATION).filter(|name| self.directory.join(name).exists());
        let located = |name| {
            let path = self.directory.join(name);
            let file = inside(&self.directory, &path)?;
            if !file.is_file() {
                return Err(Failure::new(Status::Input, "a file of the model is not a regular file")
                    .at(path.display())
                    .help("the trained model gets a copy of it: put the file itself there, or remove it"));
            }
            Ok((name, file))
        };
        own.chain(generation).map(located).collect()
    }
}

/// Where a file of the model really is: in its directory or, for a snapshot in a cache of the Hugging Face Hub, among
/// the files that all snapshots of that model share (`models--NAME/snapshots/REVISION/FILE` is a link to
/// `models--NAME/blobs/HASH`).
///
/// # Errors
/// It is a link to anywhere else: a model from a stranger could have anything of the user's copied.
fn inside(source: &Path, path: &Path) -> Result<PathBuf, Failure> {
    let real = |path: &Path| fs::canonicalize(path).map_err(|error| unreadable(path, error));
    let (directory, file) = (real(source)?, real(path)?);
    let snapshots = directory.parent().filter(|parent| parent.ends_with("snapshots"));
    let blobs = snapshots
        .and_then(Path::parent)
        .filter(|model| model.file_name().is_some_and(|name| name.to_string_lossy().starts_with("models--")))
        .map(|model| model.join("blobs"));
    if file.starts_with(&directory) || blobs.is_some_and(|blobs| file.starts_with(blobs)) {
        return Ok(file);
    }
    Err(Failure::new(Status::Input, "a file of the model is a link that leads out of its directory")
        .at(path.display())
        .because(format!("it leads to {}", file.display()))
        .help("the trained model gets a copy of the tokenizer's files: replace the link with the file, or remove it"))
}

fn unreadable(path: &Path, error: io::Error) -> Failure {
    Failure::new(Status::Input, "a file of the model that was trained cannot be read").at(path.display()).because(error)
}
