//! Where a run starts: from a checkpoint that belongs to the job, or from the model.

use std::rc::Rc;

use mdt_plugin_api::{Compute, Model};

use crate::checkpoint::{self, Checkpoint, Store};
use crate::config::{Init, Resume};
use crate::exit::{Failure, Status};
use crate::job::Job;
use crate::model::{Directory, Parameters};
use crate::progress;
use crate::update::Updater;

/// The checkpoint that the job resumes from, checked against the job.
pub(super) fn find_checkpoint(job: &Job, store: &Store, fingerprint: &str) -> Result<Option<Checkpoint>, Failure> {
    let found = match &job.resolved.settings.checkpoint.resume {
        Resume::Never => {
            if let Some(earlier) = store.set_aside_earlier()? {
                progress::note(&format!("an earlier run was moved to {}", earlier.display()));
            }
            None
        }
        Resume::Auto => {
            let latest = store.latest()?;
            latest.warnings.iter().for_each(|warning| progress::note(&format!("warning: {warning}")));
            latest.checkpoint
        }
        Resume::From(path) => Some(Checkpoint::open(path)?),
    };
    if let Some(checkpoint) = &found {
        let state = checkpoint.state();
        job.resolved.require_same_job(&state.config).map_err(|failure| failure.at(checkpoint.path().display()))?;
        if state.data != fingerprint {
            return Err(Failure::new(
                Status::Configuration,
                "the training data has changed since the checkpoint was written",
            )
            .at(job.resolved.settings.data.train.join(", "))
            .at(checkpoint.path().display())
            .help("bring the data back; or start anew with `--set checkpoint.resume=never` and another `output_dir`"));
        }
    }
    Ok(found)
}

/// Puts a checkpoint's optimizer states in their places.
pub(super) fn restore(updater: &mut Updater, parameters: &Parameters, checkpoint: &Checkpoint) -> Result<(), Failure> {
    let tensors = checkpoint.optimizer()?;
    let states = updater.arrays_mut(parameters);
    let expected: Vec<_> = states.iter().map(|state| (state.name.clone(), state.shape.clone())).collect();
    let expected: Vec<_> = expected.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())).collect();
    let arrays = tensors.arrays(&expected)?;
    states.into_iter().zip(arrays).for_each(|(state, array)| checkpoint::copy_elements(array, state.data));
    Ok(())
}

/// Where a run's weights come from.
pub(super) struct Source<'a> {
    pub(super) directory: &'a Directory,
    pub(super) model: &'a Rc<dyn Model>,
    pub(super) compute: &'a Rc<dyn Compute>,
    pub(super) seed: u64,
}

impl Source<'_> {
    /// Checks the weight files before anything is spent.
    pub(super) fn check(&self) -> Result<(), Failure> {
        Parameters::check(&self.model.parameters(), self.directory)
    }

    /// The weights that the job begins with.
    pub(super) fn begin(&self, init: Init) -> Result<Parameters, Failure> {
        match init {
            Init::Random => Parameters::random(self.compute, self.model.parameters(), self.seed),
            Init::Pretrained => Parameters::read(self.compute, self.model.parameters(), self.directory),
        }
    }

    /// The weights of a checkpoint.
    pub(super) fn resume(&self, checkpoint: &Checkpoint) -> Result<Parameters, Failure> {
        let specs = self.model.parameters();
        let tensors = checkpoint.parameters()?;
        let expected: Vec<_> = specs.iter().map(|spec| (spec.name.as_str(), spec.shape.as_slice())).collect();
        let arrays = tensors.arrays(&expected)?;
        Parameters::from_arrays(self.compute, specs.clone(), &arrays)
    }
}
