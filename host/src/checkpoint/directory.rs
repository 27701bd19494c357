//! One checkpoint: its directory, with every file checked.

use super::arrays::Tensors;
use super::state::{Manifest, State, from_json};
use crate::checksum;
use crate::exit::Failure;
use crate::storage::unreadable;
use std::fs;
use std::path::{Path, PathBuf};

pub const MODEL: &str = "model.safetensors";
pub(super) const OPTIMIZER: &str = "optimizer.safetensors";
pub const STATE: &str = "state.json";
pub const MANIFEST: &str = "manifest.json";

/// A checkpoint whose files have the sizes of its manifest and, where it was opened, its checksums.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    pub path: PathBuf,
    /// The state of the run, beside the arrays.
    pub state: State,
}

impl Checkpoint {
    /// Opens the checkpoint in a directory. Reads every byte once, for the sha256.
    ///
    /// # Errors
    /// Status 7, with the file and what is wrong with it: there is no checkpoint, a file is missing, has another size
    /// or other bytes than the manifest says, or another version of this program wrote it.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let manifest = complete(path)?;
        check_sums(path, &manifest, &[MODEL, OPTIMIZER, STATE])?;
        Self::of(path, &manifest)
    }

    /// The same without reading its arrays.
    ///
    /// # Errors
    /// As [`Checkpoint::open`], for all that can be seen.
    pub fn look(path: &Path) -> Result<Self, Failure> {
        let manifest = complete(path)?;
        check_sums(path, &manifest, &[STATE])?;
        Self::of(path, &manifest)
    }

    /// Checks the checksum of the parameters of a checkpoint that was only looked at.
    ///
    /// # Errors
    /// They are damaged.
    pub fn check_parameters(&self) -> Result<(), Failure> {
        check_sums(&self.path, &complete(&self.path)?, &[MODEL])
    }

    fn of(path: &Path, manifest: &Manifest) -> Result<Self, Failure> {
        let state: State = from_json(&path.join(STATE))?;
        if state.update != manifest.update {
            let cause = format!("it is of update {}, the manifest of update {}", state.update, manifest.update);
            return Err(unreadable("a file of the checkpoint is damaged", &path.join(STATE), cause));
        }
        Ok(Checkpoint { path: path.to_owned(), state })
    }

    /// The parameters, by their names.
    pub fn parameters(&self) -> Result<Tensors, Failure> {
        Tensors::open(&self.path.join(MODEL))
    }

    /// The optimizer's state, `<parameter>.<state>`.
    pub fn optimizer(&self) -> Result<Tensors, Failure> {
        Tensors::open(&self.path.join(OPTIMIZER))
    }
}

const USE_ANOTHER: &str = "resume from another checkpoint with `checkpoint.resume = \"DIR\"`";

/// Checks the checksums of these files.
fn check_sums(path: &Path, manifest: &Manifest, names: &[&str]) -> Result<(), Failure> {
    for (name, expected) in manifest.files.iter().filter(|(name, _)| names.contains(&name.as_str())) {
        let file = path.join(name);
        let found = checksum::of_file(&file)
            .map_err(|error| unreadable("a file of the checkpoint cannot be read", &file, error))?;
        if found != expected.sha256 {
            let cause = format!("its sha256 is {found}, the manifest has {}", expected.sha256);
            return Err(unreadable("a file of the checkpoint is damaged", &file, cause).help(USE_ANOTHER));
        }
    }
    Ok(())
}

/// The manifest, if all files exist with its sizes.
fn complete(path: &Path) -> Result<Manifest, Failure> {
    let directory = fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => unreadable("there is no checkpoint", path, "the directory does not exist"),
        _ => unreadable("the checkpoint cannot be read", path, error),
    })?;
    if !directory.is_dir() {
        return Err(unreadable("there is no checkpoint", path, "it is a file, a checkpoint is a directory"));
    }
    let manifest: Manifest = from_json(&path.join(MANIFEST)).map_err(|failure| failure.help(USE_ANOTHER))?;
    let names: Vec<_> = manifest.files.keys().map(String::as_str).collect();
    if names != [MODEL, OPTIMIZER, STATE] {
        let cause = format!("it lists {names:?}");
        return Err(unreadable("a file of the checkpoint is damaged", &path.join(MANIFEST), cause).help(USE_ANOTHER));
    }
    for (name, expected) in &manifest.files {
        let file = path.join(name);
        let cause = match fs::metadata(&file) {
            Ok(found) if found.len() == expected.bytes => continue,
            Ok(found) => format!("it has {} bytes, the manifest has {}", found.len(), expected.bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => "the file is missing".to_owned(),
            Err(error) => error.to_string(),
        };
        return Err(unreadable("the checkpoint is not complete", &file, cause).help(USE_ANOTHER));
    }
    Ok(manifest)
}
