//! A job's model, opened: its directory, its code, its tokenizer, the trainer, and where its weights come from.

use std::rc::Rc;

use mdt_plugin_api::register::TrainerComponent;
use mdt_plugin_api::{Compute, ParameterSpec, SharedTokenizer};

use super::Job;
use crate::checkpoint::Checkpoint;
use crate::config::Init;
use crate::exit::Failure;
use crate::model::{self, DescribedModel, Directory, Parameters, Start};
use crate::random::Stream;
use crate::tokenizer_files::TokenizerFiles;

/// A model without its weights. Compute thread only.
pub struct OpenedModel {
    /// What computes it.
    pub compute: Rc<dyn Compute>,
    /// Where it lies.
    pub directory: Directory,
    /// Its code.
    pub model: DescribedModel,
    /// Its tokens.
    pub tokenizer: SharedTokenizer,
    /// What makes a loss of it.
    pub trainer: TrainerComponent,
    /// The trainer's own parameters.
    own: Vec<ParameterSpec>,
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
        model::check_vocabulary(model.spec(), &directory, tokenizer.vocabulary().size)?;
        let trainer = self.trainer(&directory, &tokenizer)?;
        let settings = &self.resolved.settings;
        let own = match &trainer.parameters {
            Some(ability) => model::check_own(&settings.trainer.id, ability.parameters(model.spec())?)?,
            None => Vec::new(),
        };
        let (init, seed) = (settings.model.init, settings.seed);
        Ok(OpenedModel { compute, directory, model, tokenizer, trainer, own, init, seed })
    }
}

impl OpenedModel {
    /// All parameters of the job: those of the model, and the trainer's own.
    pub fn parameters(&self) -> Vec<ParameterSpec> {
        [self.model.spec().parameters.as_slice(), &self.own].concat()
    }

    /// Checks the files that the job reads its weights from and copies the tokenizer from, before anything is spent.
    ///
    /// # Errors
    /// Weights that are missing, damaged or another model's, or that would not fit into memory; files that may not be
    /// copied.
    pub fn check_files(&self) -> Result<(), Failure> {
        match self.init {
            Init::Random => Parameters::check_random(&self.parameters(), &self.directory),
            Init::Pretrained => Parameters::check(&self.model.spec().parameters, &self.directory),
        }?;
        self.tokenizer_files()?.check()
    }

    /// The files of its tokenizer.
    pub fn tokenizer_files(&self) -> Result<TokenizerFiles, Failure> {
        TokenizerFiles::of(self.directory.path(), &self.tokenizer)
    }

    /// All weights that the job begins with: those of the model, and the trainer's own, drawn from its seed.
    pub fn weights(&self) -> Result<Parameters, Failure> {
        let own = Parameters::random(&self.compute, self.own.clone(), Stream::new(self.seed, "trainer", 0).bits())?;
        Ok(self.model_weights()?.with_own(own))
    }

    /// The model's weights that the job begins with: read, or drawn from its seed.
    pub fn model_weights(&self) -> Result<Parameters, Failure> {
        let specs = self.model.spec().parameters.clone();
        match self.init {
            Init::Random => Parameters::random(&self.compute, specs, self.seed),
            Init::Pretrained => Parameters::read(&self.compute, specs, &self.directory),
        }
    }

    /// The weights of a checkpoint; those that are not trained are where the job began.
    pub fn weights_of(&self, checkpoint: &Checkpoint) -> Result<Parameters, Failure> {
        let trained = model::trained(&self.parameters());
        let tensors = checkpoint.parameters()?;
        let expected: Vec<_> = trained.iter().map(|spec| (spec.name.as_str(), spec.shape.as_slice())).collect();
        let arrays = tensors.arrays(&expected)?;
        let (of_model, own) = arrays.split_at(arrays.len() - self.own.len());
        let start = match self.init {
            Init::Random => Start::Seed(self.seed),
            Init::Pretrained => Start::Files(&self.directory),
        };
        let of_model = Parameters::resumed(&self.compute, self.model.spec().parameters.clone(), of_model, start)?;
        Ok(of_model.with_own(Parameters::resumed(&self.compute, self.own.clone(), own, Start::Seed(self.seed))?))
    }
}
