//! A job's model, opened: its directory, its code, its tokenizer, the trainer, and where its weights come from.

use std::rc::Rc;

use mdt_plugin_api::register::TrainerComponent;
use mdt_plugin_api::{Compute, ParameterSpec, SharedTokenizer};

use super::Job;
use crate::checkpoint::{Checkpoint, State};
use crate::config::{self, Init, Quantize, Settings};
use crate::exit::{Failure, Status};
use crate::model::{self, Adapter, DescribedModel, Directory, Holding, Packing, Parameters, Precision, Start};
use crate::random::Stream;
use crate::tokenizer_files::TokenizerFiles;

/// A model without its weights. Compute thread only.
#[derive(Clone)]
pub struct OpenedModel {
    /// What computes it.
    pub compute: Rc<dyn Compute>,
    /// Where it lies.
    pub directory: Directory,
    /// Its code.
    pub model: DescribedModel,
    /// What is trained beside its weights.
    pub adapter: Option<Adapter>,
    /// Its tokens.
    pub tokenizer: SharedTokenizer,
    /// What makes a loss of it.
    pub trainer: TrainerComponent,
    /// The parameters of the model, as the model plugin describes them.
    of_model: Vec<ParameterSpec>,
    /// The trainer's own parameters.
    own: Vec<ParameterSpec>,
    init: Init,
    /// How frozen layers are quantised that files have whole.
    holding: Holding,
    /// Whether nothing is trained.
    is_used_only: bool,
    /// Whether a frozen reference is the model before a checkpoint was trained.
    compares_with_the_beginning: bool,
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
        let settings = &self.resolved.settings;
        let (freeze, train) = (&settings.model.freeze, settings.model.train.as_deref());
        let opened_by =
            directory.adapter().map(|path| config::Adapter { path: Some(path.into()), ..Default::default() });
        let adapter = match (&settings.model.adapter, &opened_by) {
            (Some(_), Some(_)) => return Err(two_adapters(&directory)),
            (Some(_), _) | (_, Some(_)) if !freeze.is_empty() || train.is_some() => {
                return Err(freezes_beside_an_adapter());
            }
            (Some(adapter), None) | (None, Some(adapter)) => Some(Adapter::new(adapter, model.spec())?),
            (None, None) => None,
        };
        let specs = model.spec().parameters.clone();
        let of_model = specs.clone();
        let model = model.with_parameters(match &adapter {
            Some(adapter) => adapter.beside(&specs),
            None => model::freeze(specs, freeze, train)?,
        });
        let tokenizer = self.tokenizer(&directory)?;
        model::check_vocabulary(model.spec(), &directory, tokenizer.vocabulary().size)?;
        let trainer = self.trainer(&directory, &tokenizer)?;
        let own = match &trainer.parameters {
            Some(ability) => model::check_own(&settings.trainer.id, ability.parameters(model.spec())?)?,
            None => Vec::new(),
        };
        let (init, seed) = (settings.model.init, settings.seed);
        // What is beside an adapter is not written.
        let quantize = self.quantize(&directory)?;
        let holding = Holding { quantize, dtype: self.precision()?.dtype, rounds: adapter.is_some() };
        Ok(OpenedModel {
            compute,
            directory,
            model,
            adapter,
            tokenizer,
            trainer,
            of_model,
            own,
            init,
            holding,
            is_used_only: false,
            compares_with_the_beginning: false,
            seed,
        })
    }
}

impl Job {
    /// How the job quantises frozen layers when it loads them; `None` for a model that is quantised already.
    ///
    /// # Errors
    /// `model.quantize` asks for what no device computes with.
    pub fn quantize(&self, directory: &Directory) -> Result<Option<Packing>, Failure> {
        let quantize = self.resolved.settings.model.quantize.map(Quantize::packing).transpose()?;
        Ok(quantize.filter(|_| !directory.is_quantised()))
    }
}

impl OpenedModel {
    /// The same for use without training: no weight has to be float32.
    #[must_use]
    pub fn to_be_used_only(self) -> Self {
        Self { is_used_only: true, ..self }
    }

    /// The same for looking at a checkpoint as the job that wrote it does: a frozen reference is what that began with.
    #[must_use]
    pub fn as_in_training(self) -> Self {
        Self { compares_with_the_beginning: true, ..self }
    }

    /// The same to be written elsewhere: no number is rounded to the type that it is computed in, and none is trained, so that
    /// quantised weights may stay so.
    #[must_use]
    pub fn held_as_stored(self) -> Self {
        let model = match self.adapter {
            Some(_) => self.model,
            None => {
                let specs = self.frozen_specs();
                self.model.with_parameters(specs)
            }
        };
        Self { model, holding: Holding { rounds: false, ..self.holding }, ..self }
    }

    /// The same on another device, with a model and a trainer of its own: what goes wrong there leaves these as they are.
    ///
    /// # Errors
    /// The components cannot be made.
    pub fn on(&self, job: &Job, compute: Rc<dyn Compute>) -> Result<Self, Failure> {
        let model = job.model(&self.directory)?.with_parameters(self.model.spec().parameters.clone());
        let trainer = job.trainer(&self.directory, &self.tokenizer)?;
        Ok(Self { compute, model, trainer, ..self.clone() })
    }

    /// All parameters of the job: those of the model, of its adapter, and the trainer's own.
    pub fn parameters(&self) -> Vec<ParameterSpec> {
        [self.model.spec().parameters.as_slice(), &self.of_adapter(), &self.own].concat()
    }

    fn of_adapter(&self) -> Vec<ParameterSpec> {
        self.adapter.as_ref().map(Adapter::specs).unwrap_or_default()
    }

    /// The bytes of the files that weights are read from.
    pub fn file_bytes(&self) -> u64 {
        match self.init {
            Init::Random => 0,
            Init::Pretrained => model::file_bytes(&self.directory),
        }
    }

    /// The most bytes that weights take while they are loaded, files apart.
    pub fn loading_bytes(&self) -> u64 {
        let (specs, holding) = self.held();
        let specs = [specs, self.of_adapter(), self.own.clone()].concat();
        model::loading_bytes(&specs, holding, self.init == Init::Random, Parameters::drawn_at_a_time())
    }

    /// Checks the files that the job reads its weights from and copies the tokenizer from, before anything is spent.
    ///
    /// # Errors
    /// Weights that are missing, damaged or another model's, or that would not fit into memory; files that may not be
    /// copied.
    pub fn check_files(&self) -> Result<(), Failure> {
        match self.init {
            Init::Random => Parameters::check_random(&self.parameters(), &self.directory, self.holding),
            Init::Pretrained => Parameters::check(&self.model.spec().parameters, &self.directory),
        }?;
        self.check_trained()?;
        self.tokenizer_files()?.check()
    }

    /// Checks that no quantised weight would be trained.
    fn check_trained(&self) -> Result<(), Failure> {
        let specs = &self.model.spec().parameters;
        if self.init == Init::Pretrained {
            Parameters::check_trained(specs, &self.directory)?;
        }
        if self.holding.quantize.is_none() || specs.iter().any(|spec| !spec.trainable && spec.tied_to.is_none()) {
            return Ok(());
        }
        Err(Failure::configuration("`model.quantize` quantises layers that are not trained, and this job trains all")
            .help(
                "train an adapter (`model.adapter = \"lora\"`), or name what is trained (`model.train = [\"*norm*\"]`)",
            ))
    }

    /// Whether the adapter is merged when training ends: nobody else has the random weights that it was trained beside.
    pub fn merges_adapter(&self) -> bool {
        self.adapter.is_some() && self.init == Init::Random
    }

    /// The bytes of the model that the adapter is merged into, as f32; 0 where it is not.
    pub fn merged_bytes(&self) -> u64 {
        let specs = self.of_model.iter().filter(|spec| spec.tied_to.is_none() && self.merges_adapter());
        specs.map(|spec| (spec.elements() * size_of::<f32>()) as u64).sum()
    }

    /// The files of its tokenizer.
    pub fn tokenizer_files(&self) -> Result<TokenizerFiles, Failure> {
        TokenizerFiles::of(self.directory.path(), &self.tokenizer)
    }

    /// All weights that the job begins with: those of the model and of its adapter, and the trainer's own, drawn from its seed.
    pub fn weights(&self) -> Result<Parameters, Failure> {
        let own = self.own_weights()?;
        let (specs, holding) = self.held();
        let mut weights = self.weights_held(specs, holding)?;
        if let Some(adapter) = &self.adapter {
            weights = adapter.with_saved_modules(&self.compute, weights)?;
            let of_adapter = adapter.start(&self.compute, &weights, self.seed)?;
            weights = weights.with_own(of_adapter).adapted(adapter.rule);
        }
        self.check_base(&weights)?;
        Ok(weights.with_own(own))
    }

    /// The checkpoint that weights are read from, if one is used.
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        let of_adapter = self.adapter.as_ref().and_then(|adapter| adapter.directory.as_ref()?.checkpoint());
        of_adapter.or_else(|| self.directory.checkpoints().first().map(|checkpoint| &**checkpoint))
    }

    /// The trainer's own parameters: those of a checkpoint that has them, or drawn.
    fn own_weights(&self) -> Result<Parameters, Failure> {
        let seed = Stream::new(self.seed, "trainer", 0).bits();
        if let Some(checkpoint) = self.checkpoint().filter(|_| !self.own.is_empty()) {
            let tensors = checkpoint.parameters()?;
            let arrays: Option<Vec<_>> = self.own.iter().map(|spec| tensors.array(&spec.name, &spec.shape)).collect();
            if let Some(arrays) = arrays {
                return Parameters::resumed(
                    &self.compute,
                    self.own.clone(),
                    &arrays,
                    Start::Seed(seed),
                    Holding::PLAIN,
                );
            }
        }
        Parameters::random(&self.compute, self.own.clone(), seed, Holding::PLAIN)
    }

    /// Checks the parameters of the checkpoint that is used, and that those which it was trained beside are the same as then.
    /// `weights` are those that are used now.
    fn check_base(&self, weights: &Parameters) -> Result<(), Failure> {
        let Some(checkpoint) = self.checkpoint() else { return Ok(()) };
        checkpoint.check_parameters()?;
        let State { frozen, config, adapter, .. } = &checkpoint.state;
        if frozen.is_empty() {
            return Ok(());
        }
        let then: Settings = serde_json::from_value(config.clone()).map_err(|error| {
            Failure::new(Status::Storage, "the checkpoint's configuration cannot be read").because(error)
        })?;
        let quantize = then.model.quantize.map(Quantize::packing).transpose()?;
        let holding = Holding {
            quantize: quantize.filter(|_| !self.directory.is_quantised()),
            dtype: Precision::of(&then)?.dtype,
            rounds: !adapter.is_null(),
        };
        let now = match &self.adapter {
            Some(_) if !adapter.is_null() && holding == self.holding => weights.frozen_checksum()?,
            Some(now) if !adapter.is_null() => {
                let specs = now.beside(&self.of_model);
                Parameters::read(&self.compute, specs, &self.directory, holding)?.frozen_checksum()?
            }
            _ => {
                let specs = model::freeze(self.of_model.clone(), &then.model.freeze, then.model.train.as_deref())?;
                Parameters::read(&self.compute, specs, &self.directory.before_training(), holding)?.frozen_checksum()?
            }
        };
        if now == *frozen {
            return Ok(());
        }
        Err(Failure::new(Status::Input, "the checkpoint was trained beside other weights than the model has")
            .at(checkpoint.path.display())
            .at(self.directory.path().display())
            .because(format!("their checksum was {frozen} and is {now}"))
            .help("bring the model back that the job began with, or name it"))
    }

    /// All weights that the job begins with, without memory; none where the device cannot plan.
    ///
    /// # Errors
    /// The files cannot be read.
    pub fn planned_weights(&self) -> Result<Option<Parameters>, Failure> {
        let planned = |specs| Parameters::planned(&self.compute, specs, None, Holding::PLAIN);
        let (specs, holding) = self.held();
        let (Some(weights), Some(own)) = (self.planned_held(specs, holding)?, planned(self.own.clone())?) else {
            return Ok(None);
        };
        let weights = match (&self.adapter, planned(self.of_adapter())?) {
            (Some(adapter), Some(of_adapter)) => weights.with_own(of_adapter).adapted(adapter.rule),
            _ => weights,
        };
        Ok(Some(weights.with_own(own)))
    }

    /// The model's own parameters as they are in use, and how they are held.
    fn held(&self) -> (Vec<ParameterSpec>, Holding) {
        // Beside an adapter the description says what is trained.
        match self.is_used_only && self.adapter.is_none() {
            true => self.held_for_use(),
            false => (self.model.spec().parameters.clone(), self.holding),
        }
    }

    /// The same of a model that no job trains: `model.quantize` takes all its layers.
    fn held_for_use(&self) -> (Vec<ParameterSpec>, Holding) {
        (self.frozen_specs(), Holding { rounds: true, ..self.holding })
    }

    /// The model's own parameters, none of which is trained.
    fn frozen_specs(&self) -> Vec<ParameterSpec> {
        self.model.spec().parameters.iter().cloned().map(ParameterSpec::frozen).collect()
    }

    /// The same of [`OpenedModel::frozen_weights`].
    pub fn planned_frozen_weights(&self) -> Result<Option<Parameters>, Failure> {
        let (specs, holding) = self.held_for_use();
        self.planned_held(specs, Holding { quantize: None, ..holding })
    }

    fn planned_held(&self, specs: Vec<ParameterSpec>, holding: Holding) -> Result<Option<Parameters>, Failure> {
        let directory = (self.init == Init::Pretrained).then_some(&self.directory);
        Parameters::planned(&self.compute, specs, directory, holding)
    }

    /// The model's weights that the job begins with, read or drawn from its seed, none of which is trained. Where the job quantises
    /// some, these are the same ones.
    pub fn frozen_weights(&self) -> Result<Parameters, Failure> {
        let (specs, holding) = match self.holding.quantize {
            Some(_) => (self.model.spec().parameters.clone(), self.holding),
            None => self.held_for_use(),
        };
        match self.compares_with_the_beginning {
            true => self.weights_in(&self.directory.before_training(), specs, holding),
            false => self.weights_held(specs, holding),
        }
    }

    fn weights_held(&self, specs: Vec<ParameterSpec>, holding: Holding) -> Result<Parameters, Failure> {
        self.weights_in(&self.directory, specs, holding)
    }

    fn weights_in(
        &self,
        directory: &Directory,
        specs: Vec<ParameterSpec>,
        holding: Holding,
    ) -> Result<Parameters, Failure> {
        match self.init {
            Init::Random => Parameters::random(&self.compute, specs, self.seed, holding),
            Init::Pretrained => Parameters::read(&self.compute, specs, directory, holding),
        }
    }

    /// The weights of a checkpoint; those that are not trained are where the job began.
    pub fn weights_of(&self, checkpoint: &Checkpoint) -> Result<Parameters, Failure> {
        let trained = model::trained(&self.parameters());
        let tensors = checkpoint.parameters()?;
        let expected: Vec<_> = trained.iter().map(|spec| (spec.name.as_str(), spec.shape.as_slice())).collect();
        let arrays = tensors.arrays(&expected)?;
        let (of_adapter, specs) = (self.of_adapter(), self.model.spec().parameters.clone());
        let (of_model, own) = arrays.split_at(arrays.len() - self.own.len());
        let (of_model, adapters) = of_model.split_at(of_model.len() - of_adapter.len());
        let start = match self.init {
            Init::Random => Start::Seed(self.seed),
            Init::Pretrained => Start::Files(&self.directory),
        };
        let trained =
            |specs, arrays| Parameters::resumed(&self.compute, specs, arrays, Start::Seed(self.seed), Holding::PLAIN);
        let mut weights = Parameters::resumed(&self.compute, specs, of_model, start, self.holding)?;
        if let Some(adapter) = &self.adapter {
            weights = weights.with_own(trained(of_adapter, adapters)?).adapted(adapter.rule);
        }
        Ok(weights.with_own(trained(self.own.clone(), own)?))
    }
}

fn two_adapters(directory: &Directory) -> Failure {
    Failure::configuration("the model is one with an adapter, and `model.adapter` is set beside it")
        .at(directory.named().display())
        .help("leave `model.adapter` out to go on with the adapter; or merge it first (`mdt-host fuse`), and name the result")
}

fn freezes_beside_an_adapter() -> Failure {
    Failure::configuration("`model.freeze` and `model.train` choose among the model's own weights, and `model.adapter` trains none of them")
        .help("use one of the two; what is trained beside an adapter is named in `model.adapter.modules_to_save`")
}
