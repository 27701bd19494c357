//! Opening a run: everything that the job needs is loaded, read and checked, in the order of the exit statuses.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mdt_plugin_api::{Bootstrap, CommBackend, Dtype};

use super::agree::{self, Card, Start};
use super::start::{self, Source};
use super::{Run, files, share};
use crate::checkpoint::Store;
use crate::config::Init;
use crate::data;
use crate::exit::{Failure, Status};
use crate::fold::Fold;
use crate::gradient::Objective;
use crate::job::Job;
use crate::metrics::Metrics;
use crate::model;
use crate::peers::Peers;
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
        let backend = backend(job)?;

        let directory = job.model_directory()?;
        let model = job.model(&directory)?;
        let trainer = job.trainer(&directory)?;
        model::check_vocabulary(&*model, &directory, trainer.vocabulary()?.size)?;
        let (dataset, held_out) = data::read(job, &trainer)?;
        let dataset = Arc::new(dataset);
        let fingerprint = dataset.fingerprint();
        let mut data = BTreeMap::from([("the training data".to_owned(), fingerprint.clone())]);
        data.extend(held_out.as_ref().map(|rows| ("the held-out data".to_owned(), rows.fingerprint())));
        let plan = Plan::of(settings, dataset.rows().len());
        let schedule = Schedule::new(&settings.scheduler, settings.optimizer.learning_rate, plan.total_updates());
        let source = Source { directory: &directory, model: &model, compute: &compute, seed: settings.seed };
        if settings.model.init == Init::Pretrained {
            source.check()?;
        }

        // The first rank alone touches the output directory, which others may share or not see.
        let store = match settings.comm.rank {
            0 => {
                storage::check_output_dir(&settings.output_dir)?;
                Some(Store::new(&settings.output_dir, settings.checkpoint.keep)?)
            }
            _ => None,
        };
        let resumed = match &store {
            Some(store) => start::find_checkpoint(job, store, &fingerprint)?,
            None => None,
        };
        let mut parameters = match &resumed {
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

        // Everything that this rank can check alone is checked: only now are the others kept waiting.
        let peers = connect(job, &*backend)?;
        let start = resumed.as_ref().map_or_else(Start::default, |checkpoint| Start::of(checkpoint.state()));
        let start = Card::new(job, data, start)?.agree(&peers)?;
        if start.resumed {
            share::share_state(&peers, &compute, &mut parameters, &mut updater)?;
        }
        files::with_arrays(&parameters, |arrays| {
            agree::require_same_bits(&peers, "the weights that training begins with", arrays.iter().map(|a| a.data))
        })?;
        let metrics = match (&store, &resumed) {
            (None, _) => None,
            (_, None) => Some(Metrics::create(&settings.output_dir)?),
            (_, Some(checkpoint)) => {
                progress::note(&format!("resuming from {}", checkpoint.path().display()));
                let (metrics, warning) = Metrics::resume(&settings.output_dir, checkpoint.state().metrics_bytes)?;
                warning.iter().for_each(|warning| progress::note(&format!("warning: {warning}")));
                Some(metrics)
            }
        };
        let done = start.update;
        let progress = Progress::new(plan.total_updates(), done);
        let objective = Objective::new(Rc::clone(&compute), model, Arc::clone(&trainer));
        Ok(Self {
            job,
            settings,
            directory,
            compute,
            trainer,
            peers,
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
            number_of_metrics: None,
            done,
            saved: start.resumed.then_some(done),
        })
    }
}

/// The backend, which can do what the job needs.
fn backend(job: &Job) -> Result<Box<dyn CommBackend>, Failure> {
    let settings = &job.resolved.settings.comm;
    let backend = job.comm()?;
    let capabilities = backend.capabilities();
    for dtype in [Dtype::F32, Dtype::F64] {
        if !capabilities.dtypes.contains(&dtype) {
            let message = format!("the comm plugin `{}` does not reduce {dtype}, which training needs", settings.id);
            return Err(Failure::new(Status::Plugin, message));
        }
    }
    if capabilities.max_world_size > 0 && settings.world_size > capabilities.max_world_size {
        let message = format!(
            "`comm.world_size` is {}, and the comm plugin `{}` connects {} at most",
            settings.world_size, settings.id, capabilities.max_world_size
        );
        return Err(Failure::configuration(message).help("choose another backend: `--set comm.use=grpc`"));
    }
    Ok(backend)
}

/// Connects with the other ranks of the job.
fn connect(job: &Job, backend: &dyn CommBackend) -> Result<Peers, Failure> {
    let settings = &job.resolved.settings.comm;
    let bootstrap = Bootstrap {
        rank: settings.rank,
        world_size: settings.world_size,
        address: settings.address.clone(),
        port: settings.port,
        job: job.resolved.identity(),
    };
    Ok(Peers::new(backend.open(&bootstrap)?, Duration::from_secs(settings.timeout_s)))
}
