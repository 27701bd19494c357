//! The checkpoints of one run.

use super::best::{self, BEST, Evaluated};
use super::directory::{Checkpoint, MANIFEST, MODEL, OPTIMIZER, STATE};
use super::state::{Manifest, State, to_json};
use crate::exit::{Failure, Status};
use crate::rank_processes;
use crate::storage::{self, Array, Staged, TypedArray, open_own, unreadable, unwritable, write_tensors};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// `<output_dir>/checkpoints`. One process at a time holds the output directory.
#[derive(Debug)]
pub struct Store {
    output_dir: PathBuf,
    checkpoints: Checkpoints,
    /// Held as long as the store; the system frees it when the process is killed.
    _lock: File,
}

/// The directory of checkpoints, of which the newest `keep` are kept; 0 keeps all.
#[derive(Clone, Debug)]
struct Checkpoints {
    directory: PathBuf,
    keep: u32,
}

/// A checkpoint whose bytes are written, and that is not on the disk yet. Dropped before [`Saving::finish`], nothing of it stays.
pub struct Saving {
    staged: Staged,
    checkpoints: Checkpoints,
    update: u64,
    best: Option<Evaluated>,
}

#[derive(Debug)]
pub struct Latest {
    /// The newest whole checkpoint; none if the run has none yet.
    pub checkpoint: Option<Checkpoint>,
    /// One line for each newer checkpoint that is damaged, with the reason.
    pub warnings: Vec<String>,
}

impl Store {
    /// Opens the checkpoints of an output directory, of which the newest `keep` are kept; 0 keeps all. Creates the
    /// directory and cleans up what a killed run left in it.
    ///
    /// # Errors
    /// Status 7: the directory cannot be created or written, or another run is writing to it.
    pub fn new(output_dir: &Path, keep: u32) -> Result<Self, Failure> {
        let directory = output_dir.join(DIRECTORY);
        let failed = |error: io::Error| {
            unwritable("the checkpoint directory cannot be created", &output_dir.join(DIRECTORY), &error)
        };
        fs::create_dir_all(output_dir).map_err(failed)?;
        let store = Store {
            output_dir: output_dir.to_owned(),
            checkpoints: Checkpoints { directory, keep },
            _lock: lock(output_dir)?,
        };
        store.finish_setting_aside().and_then(|_| fs::create_dir_all(store.directory())).map_err(failed)?;
        store.recover().map_err(|error| {
            unwritable("what an interrupted save left cannot be removed", store.directory(), &error)
        })?;
        Ok(store)
    }

    /// The directory of the checkpoint of an update.
    pub fn path(&self, update: u64) -> PathBuf {
        self.checkpoints.path(update)
    }

    fn directory(&self) -> &Path {
        &self.checkpoints.directory
    }

    /// Whether a checkpoint is in this directory.
    pub fn contains(&self, checkpoint: &Checkpoint) -> bool {
        let parent = fs::canonicalize(&checkpoint.path).ok().and_then(|path| path.parent().map(Path::to_owned));
        parent.is_some_and(|parent| fs::canonicalize(self.directory()).is_ok_and(|directory| directory == parent))
    }

    /// Writes the bytes of the checkpoint of `state.update`, as they are, without a second copy in memory. Once they are written
    /// weights and states may change; [`Saving::finish`], on any thread, waits for the disk and makes it a checkpoint.
    ///
    /// # Errors
    /// Status 7, with the file and what to do about it. Nothing of this checkpoint is left; earlier ones are unchanged.
    pub fn begin_save(
        &self,
        state: &State,
        parameters: &[Array<'_>],
        optimizer: &[TypedArray<'_>],
        best: Option<Evaluated>,
    ) -> Result<Saving, Failure> {
        let target = self.path(state.update);
        let failed = |path: &Path, error: &io::Error| self.checkpoints.cannot_save(state.update, path, error);
        // Somebody may have deleted all checkpoints during the run.
        let staged = fs::create_dir_all(self.directory()).and_then(|()| Staged::create(&target));
        let staged = staged.map_err(|error| failed(&target, &error))?;
        let write = |name: &str, write: &dyn Fn(&Path) -> io::Result<storage::Written>| {
            let path = staged.path().join(name);
            // The message names the final path: the temporary one no longer exists by then.
            write(&path).map_err(|error| failed(&target.join(name), &error))
        };
        let files = [
            (MODEL, write(MODEL, &|path| write_tensors(path, parameters, &[], &|| Ok(())))?),
            (OPTIMIZER, write(OPTIMIZER, &|path| write_tensors(path, optimizer, &[], &|| Ok(())))?),
            (STATE, write(STATE, &|path| storage::write_staged(path, &to_json(state)?))?),
        ];
        let files = files.into_iter().map(|(name, written)| (name.to_owned(), written)).collect();
        let manifest = Manifest { update: state.update, files };
        write(MANIFEST, &|path| storage::write_staged(path, &to_json(&manifest)?))?;
        Ok(Saving { staged, checkpoints: self.checkpoints.clone(), update: state.update, best })
    }

    /// Names the best checkpoint and deletes those beyond the number to keep, as every save does, at the start of a run: a kill
    /// may have come in between.
    ///
    /// # Errors
    /// Status 7: the directory cannot be written.
    pub fn finish_save(&self, newest: u64, best: Option<Evaluated>) -> Result<(), Failure> {
        self.checkpoints.finish_save(newest, best)
    }

    /// Finds the newest checkpoint that is whole. Reads every byte of it once, for the sha256.
    ///
    /// # Errors
    /// Status 7: the directory cannot be read, or there are checkpoints and none is whole. In that case no new run
    /// begins, because its files would replace those of the old one.
    pub fn latest(&self) -> Result<Latest, Failure> {
        let updates = self
            .updates()
            .map_err(|error| unreadable("the checkpoint directory cannot be read", self.directory(), error))?;
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
                    .at(self.directory().display())
                    .because(newest.in_one_line())
                    .help(
                        "begin again with `checkpoint.resume = \"never\"`: the results are moved to `earlier-N` then",
                    ))
            }
        }
    }

    /// The updates whose checkpoints have their final names, whole or not.
    pub(super) fn updates(&self) -> io::Result<BTreeSet<u64>> {
        self.checkpoints.updates()
    }

    pub(super) fn output_dir(&self) -> &Path {
        &self.output_dir
    }

    fn recover(&self) -> io::Result<()> {
        let entries = fs::read_dir(self.directory())?.collect::<io::Result<Vec<_>>>()?;
        for entry in entries {
            let entry = entry.file_name();
            if let Some(name) = entry.to_str().and_then(storage::leftover_of).filter(|name| update(name).is_some()) {
                storage::recover(&self.directory().join(name))?;
            }
        }
        Ok(())
    }
}

impl Checkpoints {
    fn path(&self, update: u64) -> PathBuf {
        self.directory.join(name(update))
    }

    fn updates(&self) -> io::Result<BTreeSet<u64>> {
        let mut updates = BTreeSet::new();
        for entry in fs::read_dir(&self.directory)? {
            updates.extend(entry?.file_name().to_str().and_then(update));
        }
        Ok(updates)
    }

    /// The error of a checkpoint that cannot be written.
    fn cannot_save(&self, update: u64, path: &Path, error: &io::Error) -> Failure {
        let failure = unwritable(&format!("the checkpoint of update {update} cannot be written"), path, error);
        match self.updates().ok().and_then(|updates| updates.last().copied()) {
            Some(newest) => failure.because(format!("the newest checkpoint is {}", name(newest))),
            None => failure,
        }
    }

    /// Names the best checkpoint in `best.json`, or removes the file if there is none; then deletes the checkpoints up to
    /// `newest` that are beyond the number to keep, except the best. Later ones, which exist after a resume from an earlier
    /// one, are neither counted nor deleted.
    fn finish_save(&self, newest: u64, best: Option<Evaluated>) -> Result<(), Failure> {
        // Before the deletion, so that the checkpoint in the file exists at every moment.
        best::write(&self.directory, best.map(|best| (best, name(best.update))))
            .map_err(|error| unwritable("the best checkpoint cannot be named", &self.directory.join(BEST), &error))?;
        let delete = || {
            let mut updates = self.updates()?;
            updates.retain(|&update| update <= newest);
            let surplus = match self.keep {
                0 => 0,
                keep => updates.len().saturating_sub(keep as usize),
            };
            let is_best = |update: &u64| best.is_some_and(|best| best.update == *update);
            let mut surplus = updates.into_iter().take(surplus).filter(|update| !is_best(update));
            surplus.try_for_each(|update| storage::remove(&self.path(update)))
        };
        delete().map_err(|error| unwritable("an old checkpoint cannot be deleted", &self.directory, &error))
    }
}

impl Saving {
    /// Waits for the disk, then puts the checkpoint in its place, names the best one in `best.json`, and deletes the oldest ones
    /// beyond the number to keep, but never the best. An earlier one of the same update is replaced.
    ///
    /// # Errors
    /// As those of [`Store::begin_save`].
    pub fn finish(self) -> Result<(), Failure> {
        let Self { staged, checkpoints, update, best } = self;
        staged.publish().map_err(|error| checkpoints.cannot_save(update, &checkpoints.path(update), &error))?;
        checkpoints.finish_save(update, best)
    }
}

pub(super) const DIRECTORY: &str = "checkpoints";

fn name(update: u64) -> String {
    format!("step-{update:06}")
}

/// The directory of the checkpoint of an update in an output directory.
pub fn place(output_dir: &Path, update: u64) -> PathBuf {
    output_dir.join(DIRECTORY).join(name(update))
}

/// The update in the name of a checkpoint; none if it is another name.
fn update(directory: &str) -> Option<u64> {
    let update = directory.strip_prefix("step-")?.parse().ok()?;
    // The inverse of `name` and nothing else, such as `step-+1`.
    (name(update) == directory).then_some(update)
}

/// The checkpoints in an output directory and when each was written, for a process that does not hold the directory. What
/// cannot be read is not there.
pub fn written(output_dir: &Path) -> BTreeMap<u64, SystemTime> {
    let entries = fs::read_dir(output_dir.join(DIRECTORY)).into_iter().flatten().flatten();
    let written = |entry: fs::DirEntry| {
        let update = update(entry.file_name().to_str()?)?;
        Some((update, fs::metadata(entry.path().join(MANIFEST)).and_then(|manifest| manifest.modified()).ok()?))
    };
    entries.filter_map(written).collect()
}

/// Locks an output directory for one run: two would delete each other's temporary files as leftovers. The lock is beside
/// the results, so that it stays when a user deletes those.
fn lock(output_dir: &Path) -> Result<File, Failure> {
    let path = output_dir.join(".lock");
    let file = open_own(&path, false).map_err(|error| unwritable("the lock file cannot be opened", &path, &error))?;
    let begin = Instant::now();
    let patience = if rank_processes::is_started_again() { LEFT_BEHIND } else { Duration::ZERO };
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if begin.elapsed() < patience => thread::sleep(Duration::from_millis(50)),
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::new(Status::Storage, "another run is writing to this output directory")
                    .at(output_dir.display())
                    .help("wait for it, or set `output_dir` to another directory"));
            }
            // Some network file systems have no locks; there the user has to keep two runs apart.
            Ok(()) | Err(TryLockError::Error(_)) => return Ok(file),
        }
    }
}

/// How long the first rank of a job that is started again waits for the one before, which may still be saving: it was out
/// of the launcher's reach.
const LEFT_BEHIND: Duration = Duration::from_secs(40);

fn passed_over(failure: &Failure, taken: &Checkpoint) -> String {
    format!("a damaged checkpoint is not used: {}; resuming from {}", failure.in_one_line(), taken.path.display())
}
