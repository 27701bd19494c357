//! Opening a run: everything that the job needs is loaded, read and checked, in the order of the exit statuses.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mdt_plugin_api::{Bootstrap, Communicator, Compute, Dtype, HostView, Model, Trainer};

use super::step::UpdateLine;
use crate::checkpoint::{self, Checkpoint, State, Store};
use crate::config::{Init, Resume, Settings};
use crate::data::Dataset;
use crate::exit::{Failure, Status};
use crate::export::Export;
use crate::fold::Fold;
use crate::gradient::{LOSS, Objective, WEIGHT, all_finite};
use crate::job::Job;
use crate::metrics::{self, Metrics};
use crate::model::{self, Directory, Parameters};
use crate::plan::Plan;
use crate::progress::{self, Line, Progress};
use crate::schedule::Schedule;
use crate::storage::{self, Array};
use crate::update::{StateArray, Updater};

/// A training run, between two updates. Compute thread only.
pub struct Run<'a> {
    pub(super) job: &'a Job,
    pub(super) settings: &'a Settings,
    directory: Directory,
    compute: Rc<dyn Compute>,
    pub(super) trainer: Arc<dyn Trainer>,
    pub(super) communicator: Box<dyn Communicator>,
    pub(super) dataset: Arc<Dataset>,
    held_out: Option<Dataset>,
    fingerprint: String,
    components: Vec<String>,
    pub(super) plan: Plan,
    pub(super) schedule: Schedule,
    pub(super) parameters: Parameters,
    pub(super) objective: Objective,
    pub(super) updater: Updater,
    pub(super) fold: Fold,
    store: Store,
    metrics: Metrics,
    pub(super) progress: Progress,
    /// Updates that are done.
    pub(super) done: u64,
    /// The update of the last checkpoint of this run, written or resumed from.
    saved: Option<u64>,
}

impl<'a> Run<'a> {
    /// Opens a job, at its beginning or at the checkpoint that it resumes from.
    ///
    /// # Errors
    /// The first thing that is wrong: plugins, then model and data, then the output directory and its checkpoints.
    pub fn open(job: &'a Job) -> Result<Self, Failure> {
        job.resolved.require_job()?;
        let settings = &job.resolved.settings;
        let components = job.component_names()?;
        let compute = job.compute()?;
        let optimizer = job.optimizer()?;
        let communicator = communicator(job)?;

        let directory = job.model_directory()?;
        let model = job.model(&directory)?;
        let trainer = job.trainer(&directory)?;
        model::check_vocabulary(&*model, &directory, trainer.vocabulary()?.size)?;
        let dataset = Arc::new(Dataset::read(job, &trainer, &settings.data.train)?);
        let held_out = match settings.data.eval.as_slice() {
            [] => None,
            sources => Some(Dataset::read(job, &trainer, sources)?),
        };
        let fingerprint = dataset.fingerprint();
        let plan = plan(settings, dataset.rows().len());
        let schedule = Schedule::new(&settings.scheduler, settings.optimizer.learning_rate, plan.total_updates());
        let source = Source { directory: &directory, model: &model, compute: &compute, seed: settings.seed };
        if settings.model.init == Init::Pretrained {
            source.check()?;
        }

        storage::check_output_dir(&settings.output_dir)?;
        let store = Store::new(&settings.output_dir, settings.checkpoint.keep)?;
        let resumed = find_checkpoint(job, &store, &fingerprint)?;
        let parameters = match &resumed {
            Some(checkpoint) => source.resume(checkpoint)?,
            None => source.begin(settings.model.init)?,
        };
        let mut updater = Updater::new(optimizer, &parameters, &settings.optimizer)?;
        if let Some(checkpoint) = &resumed {
            restore(&mut updater, &parameters, checkpoint)?;
            for (now, before) in components.iter().zip(&checkpoint.state().components).filter(|(a, b)| a != b) {
                progress::note(&format!("warning: resuming with {now}, the checkpoint was written with {before}"));
            }
        }
        let done = resumed.as_ref().map_or(0, |checkpoint| checkpoint.state().update);
        let metrics = match &resumed {
            Some(checkpoint) => {
                let (metrics, warning) = Metrics::resume(&settings.output_dir, checkpoint.state().metrics_bytes)?;
                warning.iter().for_each(|warning| progress::note(&format!("warning: {warning}")));
                metrics
            }
            None => Metrics::create(&settings.output_dir)?,
        };
        if let Some(checkpoint) = &resumed {
            progress::note(&format!("resuming from {}", checkpoint.path().display()));
        }
        let progress = Progress::new(plan.total_updates(), done);
        let objective = Objective::new(Rc::clone(&compute), model, Arc::clone(&trainer));
        Ok(Self {
            job,
            settings,
            directory,
            compute,
            trainer,
            communicator,
            dataset,
            held_out,
            fingerprint,
            components,
            plan,
            schedule,
            parameters,
            objective,
            updater,
            fold: Fold::default(),
            store,
            metrics,
            progress,
            done,
            saved: resumed.map(|_| done),
        })
    }

    /// This process, from 0.
    pub(super) fn rank(&self) -> usize {
        self.communicator.rank() as usize
    }

    /// Says what is about to run.
    pub(super) fn announce(&self) {
        let device = self.compute.device();
        progress::note(&format!(
            "device   {} {} ({}, {} threads)",
            device.kind, device.name, device.library, device.threads
        ));
        progress::note(&format!("plugins  {}", self.components.join(", ")));
        progress::note(&format!(
            "model    {} ({} parameters, {})",
            self.directory.path().display(),
            progress::grouped(self.parameters.elements() as u64),
            match self.settings.model.init {
                Init::Random => "from random weights",
                Init::Pretrained => "pretrained",
            }
        ));
        progress::note(&format!("data     {}", self.dataset.summary()));
        if let Some(held_out) = &self.held_out {
            progress::note(&format!("held out {}", held_out.summary()));
        }
        progress::note(&format!(
            "plan     {} updates, {} per epoch, {} rows each",
            self.plan.total_updates(),
            self.plan.updates_per_epoch(),
            self.plan.batch_size * self.plan.accumulation * self.plan.world_size
        ));
    }

    /// Writes an update's numbers to metrics.jsonl and the terminal.
    pub(super) fn report(&mut self, line: UpdateLine, took: Duration) -> Result<(), Failure> {
        let line = metrics::Update {
            step: self.done,
            epoch: self.plan.epochs_after(self.done),
            loss: line.loss,
            grad_norm: line.grad_norm,
            lr: line.learning_rate,
            tokens: line.tokens,
            supervised_tokens: line.supervised_tokens,
            tokens_per_s: line.tokens as f64 / took.as_secs_f64(),
            step_s: took.as_secs_f64(),
            data_wait_s: line.data_wait.as_secs_f64(),
            peak_memory_bytes: metrics::peak_memory_bytes(),
            extra: line.metrics.into_iter().collect(),
        };
        let metrics::Update { step, loss, lr, tokens_per_s, grad_norm, .. } = line;
        self.progress.update(&Line { step, loss, lr, tokens_per_s, grad_norm });
        let last = self.done == self.plan.total_updates();
        if last || self.done.is_multiple_of(self.settings.metrics.every.max(1)) {
            self.metrics.update(&line)?;
        }
        Ok(())
    }

    /// Whether the held-out rows are to be looked at after this update.
    pub(super) fn evaluation_due(&self) -> bool {
        let every = match self.settings.trainer.eval_steps {
            0 => self.plan.updates_per_epoch(),
            steps => steps,
        };
        self.held_out.is_some() && (self.done.is_multiple_of(every) || self.done == self.plan.total_updates())
    }

    /// The loss of the held-out rows, per supervised token.
    pub(super) fn evaluate(&mut self) -> Result<(), Failure> {
        let Some(held_out) = &self.held_out else { return Ok(()) };
        let (mut loss, mut weight) = (0.0, 0.0);
        for rows in held_out.rows().chunks(self.plan.batch_size) {
            let batch = self.trainer.collate(&rows.iter().collect::<Vec<_>>())?;
            let scalars = self.objective.evaluate(&self.parameters, &batch)?;
            loss += scalars[LOSS];
            weight += scalars[WEIGHT];
        }
        let line = metrics::Evaluation {
            step: self.done,
            epoch: self.plan.epochs_after(self.done),
            eval_loss: loss / weight,
            extra: metrics::Extra::new(),
        };
        self.progress.note(&format!("held-out loss after update {}: {:.4}", self.done, line.eval_loss));
        self.metrics.evaluation(&line)
    }

    /// Whether a checkpoint is due after this update.
    pub(super) fn save_due(&self) -> bool {
        let every = self.settings.checkpoint.save_steps;
        every > 0 && self.done.is_multiple_of(every)
    }

    /// Writes a checkpoint of the present update, unless there is one.
    pub(super) fn save(&mut self) -> Result<(), Failure> {
        if self.saved == Some(self.done) {
            return Ok(());
        }
        let state = State {
            update: self.done,
            config: self.job.resolved.canonical(),
            data: self.fingerprint.clone(),
            components: self.components.clone(),
            metrics_bytes: self.metrics.bytes(),
            progress: serde_json::Value::Null,
        };
        let states = self.updater.arrays(&self.parameters);
        let states: Vec<_> =
            states.iter().map(|StateArray { name, shape, data }| Array { name, shape, data }).collect();
        with_arrays(&self.parameters, |parameters| {
            // A finite gradient can still have been multiplied by too large a rate.
            if let Some(array) = parameters.iter().find(|array| !all_finite(array.data)) {
                let message = format!("`{}` is not finite after update {}", array.name, self.done);
                return Err(Failure::new(Status::NonFinite, message)
                    .because("this update is not saved; earlier checkpoints are as they were")
                    .help("lower `optimizer.learning_rate`"));
            }
            self.store.save(&state, parameters, &states)
        })?;
        self.saved = Some(self.done);
        Ok(())
    }

    /// Writes a checkpoint for an interrupted job; the failure says how to go on.
    pub(super) fn interrupted(&mut self) -> Failure {
        self.progress.finish();
        match self.save() {
            Err(failure) => failure,
            Ok(()) => Failure::new(Status::Interrupted, format!("interrupted after update {}", self.done))
                .at(self.store.path(self.done).display())
                .help("run the same command again to go on from there"),
        }
    }

    /// Writes the final model and the picture of the loss.
    pub(super) fn export(&self) -> Result<(), Failure> {
        let output = &self.settings.output_dir;
        let tied = !self.parameters.specs().iter().any(|spec| spec.name == "lm_head.weight");
        let model = with_arrays(&self.parameters, |parameters| {
            let (source, config) = (self.directory.path(), self.directory.config());
            Export { source, config, tie_word_embeddings: tied, parameters }.write(output)
        })?;
        let curve = metrics::read_losses(&output.join(metrics::FILE))?;
        let picture = metrics::write_picture(output, &format!("Loss of {}", output.display()), &curve)?;
        progress::note(&format!("wrote {} and {}", model.display(), picture.display()));
        Ok(())
    }
}

/// The parameters as arrays in host memory, for as long as `body` runs.
fn with_arrays<T>(
    parameters: &Parameters,
    body: impl FnOnce(&[Array<'_>]) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let views: Vec<HostView<'_>> =
        parameters.tensors().iter().map(|tensor| tensor.host_view()).collect::<Result<_, _>>()?;
    let arrays: Vec<Array<'_>> = parameters
        .specs()
        .iter()
        .zip(&views)
        .map(|(spec, view)| Ok(Array { name: &spec.name, shape: &spec.shape, data: view.as_slice::<f32>()? }))
        .collect::<Result<_, mdt_plugin_api::Error>>()?;
    body(&arrays)
}

fn communicator(job: &Job) -> Result<Box<dyn Communicator>, Failure> {
    let settings = &job.resolved.settings.comm;
    let backend = job.comm()?;
    let capabilities = backend.capabilities();
    for dtype in [Dtype::F32, Dtype::F64] {
        if !capabilities.dtypes.contains(&dtype) {
            let message = format!("the comm plugin `{}` does not reduce {dtype}, which training needs", settings.id);
            return Err(Failure::new(Status::Plugin, message));
        }
    }
    let bootstrap = Bootstrap {
        rank: settings.rank,
        world_size: settings.world_size,
        address: settings.address.clone(),
        port: settings.port,
        job: job.resolved.identity(),
    };
    Ok(backend.open(&bootstrap)?)
}

fn plan(settings: &Settings, rows: usize) -> Plan {
    Plan {
        rows,
        batch_size: settings.trainer.batch_size as usize,
        accumulation: settings.trainer.gradient_accumulation_steps as usize,
        world_size: settings.comm.world_size as usize,
        epochs: u64::from(settings.trainer.num_epochs),
        max_steps: settings.trainer.max_steps,
        shuffle: settings.data.shuffle.then_some(settings.seed),
    }
}

/// The checkpoint that the job resumes from, checked against the job.
fn find_checkpoint(job: &Job, store: &Store, fingerprint: &str) -> Result<Option<Checkpoint>, Failure> {
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

fn restore(updater: &mut Updater, parameters: &Parameters, checkpoint: &Checkpoint) -> Result<(), Failure> {
    let tensors = checkpoint.optimizer()?;
    let states = updater.arrays_mut(parameters);
    let expected: Vec<_> = states.iter().map(|state| (state.name.clone(), state.shape.clone())).collect();
    let expected: Vec<_> = expected.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())).collect();
    let arrays = tensors.arrays(&expected)?;
    states.into_iter().zip(arrays).for_each(|(state, array)| checkpoint::copy_elements(array, state.data));
    Ok(())
}

/// Where a run's weights come from.
struct Source<'a> {
    directory: &'a Directory,
    model: &'a Rc<dyn Model>,
    compute: &'a Rc<dyn Compute>,
    seed: u64,
}

impl Source<'_> {
    /// Checks the weight files before anything is spent.
    fn check(&self) -> Result<(), Failure> {
        Parameters::check(&self.model.parameters(), self.directory)
    }

    fn begin(&self, init: Init) -> Result<Parameters, Failure> {
        match init {
            Init::Random => Parameters::random(self.compute, self.model.parameters(), self.seed),
            Init::Pretrained => Parameters::read(self.compute, self.model.parameters(), self.directory),
        }
    }

    fn resume(&self, checkpoint: &Checkpoint) -> Result<Parameters, Failure> {
        let specs = self.model.parameters();
        let tensors = checkpoint.parameters()?;
        let expected: Vec<_> = specs.iter().map(|spec| (spec.name.as_str(), spec.shape.as_slice())).collect();
        let arrays = tensors.arrays(&expected)?;
        Parameters::from_arrays(self.compute, specs.clone(), &arrays)
    }
}
