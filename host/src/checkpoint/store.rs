//! The checkpoints of one run.

use super::best::{self, BEST, Best};
use super::directory::{Checkpoint, MANIFEST, MODEL, OPTIMIZER, STATE};
use super::state::{Manifest, State, to_json};
use crate::exit::{Failure, Status};
use crate::storage::{self, Array, Staged, unreadable, unwritable, write_tensors};
use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// `<output_dir>/checkpoints`, held by one process at a time.
#[derive(Debug)]
pub struct Store {
    output_dir: PathBuf,
    directory: PathBuf,
    keep: u32,
    /// Held while the store is, and freed by the system when the process is killed.
    _lock: File,
}

/// What [`Store::latest`] found.
#[derive(Debug)]
pub struct Latest {
    /// The newest whole checkpoint; none where the run has none yet.
    pub checkpoint: Option<Checkpoint>,
    /// One line for each newer one that was passed over, with what is wrong with it.
    pub warnings: Vec<String>,
}

impl Store {
    /// The checkpoints in an output directory, of which the newest `keep` are kept; 0 keeps all. Creates the directory
    /// and settles what a killed run left in it.
    ///
    /// # Errors
    /// Status 7: the directory cannot be created or written, or another run is writing to it.
    pub fn new(output_dir: &Path, keep: u32) -> Result<Self, Failure> {
        let directory = output_dir.join(DIRECTORY);
        fs::create_dir_all(&directory)
            .map_err(|error| unwritable("the checkpoint directory cannot be created", &directory, &error))?;
        let store = Store { output_dir: output_dir.to_owned(), keep, _lock: lock(&directory)?, directory };
        store
            .recover()
            .map_err(|error| unwritable("what an interrupted save left cannot be removed", &store.directory, &error))?;
        Ok(store)
    }

    /// Where the checkpoint of an update is.
    pub fn path(&self, update: u64) -> PathBuf {
        self.directory.join(name(update))
    }

    /// Writes the checkpoint of `state.update` and deletes the oldest beyond the number to keep, but never the best, of
    /// which `best.json` tells. An earlier one of the same update is replaced. Returns where it is, when the disk has
    /// it.
    ///
    /// The arrays are written as they are, without a second copy in memory.
    ///
    /// # Errors
    /// Status 7, with the file and what to do about it. Nothing of this checkpoint is left then, and those before are.
    pub fn save(
        &self,
        state: &State,
        parameters: &[Array<'_>],
        optimizer: &[Array<'_>],
        best: Option<Best>,
    ) -> Result<PathBuf, Failure> {
        let target = self.path(state.update);
        let what = format!("the checkpoint of update {} cannot be written", state.update);
        let failed = |path: &Path, error: &io::Error| {
            let failure = unwritable(&what, path, error);
            match self.updates().ok().and_then(|updates| updates.last().copied()) {
                Some(newest) => failure.because(format!("the newest checkpoint is {}", name(newest))),
                None => failure,
            }
        };
        let staged = Staged::create(&target).map_err(|error| failed(&target, &error))?;
        let write = |name: &str, write: &dyn Fn(&Path) -> io::Result<storage::Written>| {
            let path = staged.path().join(name);
            // The user looks for the final place: the temporary one is gone by then.
            write(&path).map_err(|error| failed(&target.join(name), &error))
        };
        let files = [
            (MODEL, write(MODEL, &|path| write_tensors(path, parameters, &[]))?),
            (OPTIMIZER, write(OPTIMIZER, &|path| write_tensors(path, optimizer, &[]))?),
            (STATE, write(STATE, &|path| storage::write(path, &to_json(state)?))?),
        ];
        let files = files.into_iter().map(|(name, written)| (name.to_owned(), written)).collect();
        let manifest = Manifest { update: state.update, files };
        write(MANIFEST, &|path| storage::write(path, &to_json(&manifest)?))?;
        staged.publish().map_err(|error| failed(&target, &error))?;
        // Before the deletion: what the file names is there at every moment.
        if let Some(best) = best {
            best::write(&self.directory, best, &name(best.update)).map_err(|error| {
                unwritable("the best checkpoint cannot be told", &self.directory.join(BEST), &error)
            })?;
        }
        self.delete_before(state.update, best)
            .map_err(|error| unwritable("an old checkpoint cannot be deleted", &self.directory, &error))?;
        Ok(target)
    }

    /// The newest checkpoint that is whole. Reads every byte of it once, for the sha256.
    ///
    /// # Errors
    /// Status 7: the directory cannot be read, or there are checkpoints and none is whole. That is never taken for a
    /// new run, whose files would replace the old one's.
    pub fn latest(&self) -> Result<Latest, Failure> {
        let updates = self
            .updates()
            .map_err(|error| unreadable("the checkpoint directory cannot be read", &self.directory, error))?;
        let mut failures = Vec::new();
        for &update in updates.iter().rev() {
            match Checkpoint::open(&self.path(update)) {
                Ok(checkpoint) => {
                    let warnings = failures.iter().map(|failure| passed_over(failure, &checkpoint)).collect();
                    return Ok(Latest { checkpoint: Some(checkpoint), warnings });
                }
                Err(failure) => failures.push(failure),
            }
        }
        match failures.into_iter().next() {
            None => Ok(Latest { checkpoint: None, warnings: Vec::new() }),
            Some(newest) => {
                let message = format!("none of the {} checkpoints can be resumed from", updates.len());
                Err(Failure::new(Status::Storage, message)
                    .at(self.directory.display())
                    .because(first_lines(&newest))
                    .help("start anew with `checkpoint.resume = \"never\"`: what is there is set aside then"))
            }
        }
    }

    /// Makes room for a new run where an earlier one has been: moves its checkpoints and metrics to
    /// `<output_dir>/earlier-N` and returns that, or none where there was no earlier one.
    ///
    /// # Errors
    /// Status 7: they cannot be moved.
    pub fn set_aside_earlier(&self) -> Result<Option<PathBuf>, Failure> {
        let failed = |error: io::Error| unwritable("an earlier run cannot be set aside", &self.output_dir, &error);
        let updates = self.updates().map_err(failed)?;
        if updates.is_empty() {
            return Ok(None);
        }
        let mut places = (1u64..).map(|number| self.output_dir.join(format!("earlier-{number}")));
        let Some(aside) = places.find(|place| !place.exists()) else {
            return Err(failed(io::ErrorKind::AlreadyExists.into()));
        };
        let moved = || {
            fs::create_dir_all(aside.join(DIRECTORY))?;
            // The newest goes last: a kill in between leaves a run that still resumes where it stood.
            for &update in &updates {
                fs::rename(self.path(update), aside.join(DIRECTORY).join(name(update)))?;
            }
            for file in [Path::new(DIRECTORY).join(BEST), crate::metrics::FILE.into()] {
                let path = self.output_dir.join(&file);
                if path.exists() {
                    fs::rename(path, aside.join(file))?;
                }
            }
            storage::sync(&self.directory)
        };
        moved().map_err(failed)?;
        Ok(Some(aside))
    }

    /// The updates whose checkpoints have their final names, whole or not.
    fn updates(&self) -> io::Result<BTreeSet<u64>> {
        let mut updates = BTreeSet::new();
        for entry in fs::read_dir(&self.directory)? {
            updates.extend(entry?.file_name().to_str().and_then(update));
        }
        Ok(updates)
    }

    fn recover(&self) -> io::Result<()> {
        let entries = fs::read_dir(&self.directory)?.collect::<io::Result<Vec<_>>>()?;
        for entry in entries {
            let entry = entry.file_name();
            if let Some(name) = entry.to_str().and_then(storage::leftover_of).filter(|name| update(name).is_some()) {
                storage::recover(&self.directory.join(name))?;
            }
        }
        Ok(())
    }

    /// Deletes what is beyond the number to keep, of the checkpoints up to `newest`, the best excepted. Later ones,
    /// which are there after a resume from an earlier one, are neither counted nor deleted.
    fn delete_before(&self, newest: u64, best: Option<Best>) -> io::Result<()> {
        let mut updates = self.updates()?;
        updates.retain(|&update| update <= newest);
        let surplus = match self.keep {
            0 => 0,
            keep => updates.len().saturating_sub(keep as usize),
        };
        let surplus = updates.into_iter().take(surplus).filter(|&update| best.is_none_or(|best| best.update != update));
        surplus.into_iter().try_for_each(|update| storage::remove(&self.path(update)))
    }
}

const DIRECTORY: &str = "checkpoints";

fn name(update: u64) -> String {
    format!("step-{update:06}")
}

/// The update of a checkpoint's name; none where it is not one.
fn update(directory: &str) -> Option<u64> {
    let update = directory.strip_prefix("step-")?.parse().ok()?;
    // The inverse of `name` and nothing else, such as `step-+1`.
    (name(update) == directory).then_some(update)
}

/// One run writes at a time: two would take each other's temporary files for leftovers.
fn lock(directory: &Path) -> Result<File, Failure> {
    let path = directory.join(".lock");
    let file = File::create(&path).map_err(|error| unwritable("the checkpoint lock cannot be made", &path, &error))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            Err(Failure::new(Status::Storage, "another run is writing to this output directory")
                .at(directory.display())
                .help("wait for it, or set `output_dir` to another directory"))
        }
        // Some network file systems know no locks; there, nothing but the user keeps two runs apart.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

fn passed_over(failure: &Failure, taken: &Checkpoint) -> String {
    format!("passed over: {}; resuming from {}", first_lines(failure), taken.path().display())
}

/// A failure without its help, on one line.
fn first_lines(failure: &Failure) -> String {
    let text = failure.to_string();
    let lines = text.lines().filter(|line| !line.starts_with("  help:")).map(str::trim);
    lines.collect::<Vec<_>>().join(", ").trim_start_matches("error: ").to_owned()
}
