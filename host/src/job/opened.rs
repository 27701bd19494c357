//! A job's model, opened: its directory, its code, its tokenizer, the trainer, and where its weights come from.

use std::rc::Rc;
use std::sync::Arc;

use mdt_plugin_api::{Compute, Model, SharedTokenizer, Trainer};

use super::Job;
use crate::checkpoint::Checkpoint;
use crate::config::Init;
use crate::exit::Failure;
use crate::export::check_tokenizer_files;
use crate::model::{self, Directory, Parameters, Start};

/// A model without its weights. Compute thread only.
pub struct OpenedModel {
    /// What computes it.
    pub compute: Rc<dyn Compute>,
    /// Where it lies.
    pub directory: Directory,
    /// Its code.
    pub model: Rc<dyn Model>,
    /// Its tokens.
    pub tokenizer: SharedTokenizer,
    /// What makes a loss of it.
    pub trainer: Arc<dyn Trainer>,
    init: Init,
    seed: u64,
}

impl Job {
    /// Opens the configured model on a device.
    ///
    /// # Errors
    /// Its directory or plugins cannot be used; its tokenizer is another model's.
    pub fn open_model(&self, compute: Rc<dyn Compute>) -> Result<OpenedModel, Failure> {
        let directory = self.model_directory()?;
        let model = self.model(&directory)?;
        let tokenizer = self.tokenizer(&directory)?;
        model::check_vocabulary(&*model, &directory, tokenizer.vocabulary().size)?;
        let trainer = self.trainer(&directory, &tokenizer)?;
        let settings = &self.resolved.settings;
        let (init, seed) = (settings.model.init, settings.seed);
        Ok(OpenedModel { compute, directory, model, tokenizer, trainer, init, seed })
    }
}

impl OpenedModel {
    /// Checks the files that the job reads its weights from and copies the tokenizer from, before anything is spent.
    ///
    /// # Errors
    /// Weights that are missing, damaged or another model's, or that would not fit into memory; files that may not be
    /// copied.
    pub fn check_files(&self) -> Result<(), Failure> {
        match self.init {
            Init::Random => Parameters::check_random(&self.model.spec().parameters, &self.directory),
            Init::Pretrained => Parameters::check(&self.model.spec().parameters, &self.directory),
        }?;
        check_tokenizer_files(self.directory.path())
    }

    /// The weights that the job begins with: read, or drawn from its seed.
    pub fn weights(&self) -> Result<Parameters, Failure> {
        let specs = self.model.spec().parameters;
        match self.init {
            Init::Random => Parameters::random(&self.compute, specs, self.seed),
            Init::Pretrained => Parameters::read(&self.compute, specs, &self.directory),
        }
    }

    /// The weights of a checkpoint; those that are not trained are where the job began.
    pub fn weights_of(&self, checkpoint: &Checkpoint) -> Result<Parameters, Failure> {
        let specs = self.model.spec().parameters;
        let trained = specs.iter().filter(|spec| spec.trainable && spec.tied_to.is_none());
        let tensors = checkpoint.parameters()?;
        let expected: Vec<_> = trained.map(|spec| (spec.name.as_str(), spec.shape.as_slice())).collect();
        let arrays = tensors.arrays(&expected)?;
        let start = match self.init {
            Init::Random => Start::Seed(self.seed),
            Init::Pretrained => Start::Files(&self.directory),
        };
        Parameters::resumed(&self.compute, specs.clone(), &arrays, start)
    }
}
