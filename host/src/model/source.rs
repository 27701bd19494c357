//! What a path that names a model or an adapter leads to. A checkpoint and the output directory of a job are as good as a model's
//! own directory: a checkpoint knows the model that it was trained from.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use super::{ADAPTER_CONFIG, in_cache};
use crate::checkpoint::{self, Checkpoint, State};
use crate::exit::{Failure, Status};
use crate::{export, hub, progress, text_file};

/// What a directory has in it.
#[derive(Debug)]
pub enum Source {
    /// A model with its `config.json`; or nothing, which whoever reads it says.
    Model(PathBuf),
    /// A checkpoint of a job.
    Checkpoint(Box<Checkpoint>),
    /// An adapter, as peft or mlx-lm writes it.
    Adapter(PathBuf),
}

impl Source {
    /// What is in a directory, or in the output directory of a job: its final model, or else its newest checkpoint. Which of them
    /// that is is said once.
    ///
    /// # Errors
    /// A checkpoint is not complete.
    pub fn of(path: &Path) -> Result<Self, Failure> {
        let there = within(path).unwrap_or_else(|| path.to_owned());
        if there != path {
            tell_once(path, &there);
        }
        match Kind::of(&there) {
            Some(Kind::Checkpoint) => Checkpoint::look(&there).map(Box::new).map(Self::Checkpoint),
            Some(Kind::Adapter) => Ok(Self::Adapter(there)),
            _ => Ok(Self::Model(there)),
        }
    }

    /// Whether the path leads to something else than a model's own directory.
    pub fn is_other_than_a_model(path: &Path) -> bool {
        Kind::of(path) != Some(Kind::Model) && (Kind::of(path).is_some() || within(path).is_some())
    }

    /// The configuration of the job that a path leads to a checkpoint of.
    pub fn job_of(path: &Path) -> Option<(PathBuf, Value)> {
        match Self::of(path) {
            Ok(Self::Checkpoint(checkpoint)) => Some((checkpoint.path, checkpoint.state.config)),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Model,
    Checkpoint,
    Adapter,
}

impl Kind {
    fn of(path: &Path) -> Option<Self> {
        let has = |name: &str| path.join(name).is_file();
        match () {
            () if has("config.json") => Some(Self::Model),
            () if has(checkpoint::STATE) || has(checkpoint::MANIFEST) => Some(Self::Checkpoint),
            () if has(ADAPTER_CONFIG) => Some(Self::Adapter),
            () => None,
        }
    }
}

/// What is to be used of an output directory; none where the path is none.
fn within(path: &Path) -> Option<PathBuf> {
    if Kind::of(path).is_some() {
        return None;
    }
    let last = path.join(export::DIRECTORY);
    if Kind::of(&last).is_some() {
        return Some(last);
    }
    let (&update, _) = checkpoint::written(path).last_key_value()?;
    Some(checkpoint::place(path, update))
}

fn tell_once(path: &Path, there: &Path) {
    static TOLD: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    if TOLD.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned()) {
        let which = if there.ends_with(export::DIRECTORY) { "the final model" } else { "the newest checkpoint" };
        progress::note(&format!("{} is the output of a job: using {which}, {}", path.display(), there.display()));
    }
}

/// Where the model lies that a checkpoint was trained from.
///
/// # Errors
/// It is no longer there.
pub(super) fn base_of(Checkpoint { path, state }: &Checkpoint) -> Result<PathBuf, Failure> {
    let State { model, config, .. } = state;
    let named = ["path", "name"].into_iter().find_map(|key| config["model"].get(key)?.as_str()).unwrap_or_default();
    let places = [Path::new(model), Path::new(named)];
    let revision = config["model"]["revision"].as_str();
    let cached = || in_cache(named, revision, config["model"]["init"] != "random").ok().filter(|_| hub::is_name(named));
    match places.into_iter().find(|place| place.is_dir()).map(Path::to_owned).or_else(cached) {
        Some(place) => Ok(place),
        None => Err(Failure::new(Status::Input, "the model that a checkpoint was trained from is not there")
            .at(path.display())
            .because(format!("it was in {}", if model.is_empty() { named } else { model }))
            .help(
                "bring it back there: the checkpoint has only what was trained. The model of an adapter may be elsewhere: \
                 `--model MODEL --adapter CHECKPOINT`",
            )),
    }
}

/// Where the model lies that an adapter was trained on, as its `adapter_config.json` names it.
///
/// # Errors
/// It names none that is there.
pub(super) fn base_of_adapter(path: &Path) -> Result<PathBuf, Failure> {
    let text = text_file::read_of_model(&path.join(ADAPTER_CONFIG)).unwrap_or_default();
    let config: Value = serde_json::from_str(&text).unwrap_or_default();
    let base = ["base_model_name_or_path", "model"].into_iter().find_map(|key| config.get(key)?.as_str());
    let cached = base.filter(|base| hub::is_name(base)).and_then(|base| in_cache(base, None, true).ok());
    match (base.map(Path::new), cached) {
        (Some(base), _) if base.is_dir() => Ok(base.to_owned()),
        (_, Some(cached)) => Ok(cached),
        (base, None) => {
            let failure =
                Failure::new(Status::Input, "this is an adapter, and the model that it belongs to is not there");
            let failure = base.into_iter().fold(failure.at(path.display()), |failure, base| {
                failure.because(format!("its {ADAPTER_CONFIG} names {}", base.display()))
            });
            Err(failure
                .help("name its model with `model.path` or --model, and it with `model.adapter.path` or --adapter"))
        }
    }
}
