//! Opening a run: everything that the job needs is loaded, read and checked, in the order of the exit statuses.

use std::rc::Rc;
use std::sync::Arc;

use mdt_plugin_api::{Bootstrap, Communicator, Dtype};

use super::Run;
use super::start::{self, Source};
use crate::checkpoint::Store;
use crate::config::{Init, Settings};
use crate::data::Dataset;
use crate::exit::{Failure, Status};
use crate::fold::Fold;
use crate::gradient::Objective;
use crate::job::Job;
use crate::metrics::Metrics;
use crate::model;
use crate::plan::Plan;
use crate::progress::{self, Progress};
use crate::schedule::Schedule;
use crate::storage;
use crate::update::Updater;

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
        let resumed = start::find_checkpoint(job, &store, &fingerprint)?;
        let parameters = match &resumed {
            Some(checkpoint) => source.resume(checkpoint)?,
            None => source.begin(settings.model.init)?,
        };
        let mut updater = Updater::new(optimizer, &parameters, &settings.optimizer)?;
        if let Some(checkpoint) = &resumed {
            start::restore(&mut updater, &parameters, checkpoint)?;
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
