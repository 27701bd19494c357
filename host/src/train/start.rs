//! The checkpoint that a run goes on from, where there is one that belongs to the job.

use super::optimizer::StatefulOptimizer;
use crate::checkpoint::{self, Checkpoint, Store};
use crate::config::Resume;
use crate::exit::{Failure, Status};
use crate::job::Job;
use crate::model::Parameters;
use crate::progress;

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
pub(super) fn restore(
    updater: &mut StatefulOptimizer,
    parameters: &Parameters,
    checkpoint: &Checkpoint,
) -> Result<(), Failure> {
    let tensors = checkpoint.optimizer()?;
    let states = updater.arrays_mut(parameters);
    let expected: Vec<_> = states.iter().map(|state| (state.name.clone(), state.shape.clone())).collect();
    let expected: Vec<_> = expected.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())).collect();
    let arrays = tensors.arrays(&expected)?;
    states.into_iter().zip(arrays).for_each(|(state, array)| checkpoint::copy_elements(array, state.data));
    Ok(())
}
