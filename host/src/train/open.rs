//! Opens a run: loads, reads and checks everything that the job needs, in the order of the exit statuses.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use super::agree::{self, RankManifest, Start};
use super::gradient::Objective;
use super::optimizer::{StatefulOptimizer, check_states};
use super::plugin_metrics::PluginMetrics;
use super::run::{Output, Rows};
use super::update::Learner;
use super::{Run, connect, evaluate, processor, share, start};
use crate::checkpoint::Store;
use crate::data::{self, Plan};
use crate::exit::Failure;
use crate::job::{Job, OpenedModel};
use crate::progress::Progress;
use crate::storage;

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
        let processor = processor::describe(&compute.device());
        let optimizer = job.optimizer()?;
        let backend = connect::backend(job)?;

        let opened = job.open_model(compute)?;
        check_states(&*optimizer, &settings.optimizer.id, &opened.model.spec().parameters)?;
        let (dataset, held_out) = data::read(job, &opened.trainer)?;
        let dataset = Arc::new(dataset);
        let fingerprint = dataset.fingerprint();
        let mut data = BTreeMap::from([("the training data".to_owned(), json!(fingerprint))]);
        data.extend(held_out.as_ref().map(|rows| ("the held-out data".to_owned(), json!(rows.fingerprint()))));
        let plan = Plan::of(settings, dataset.rows().len());
        opened.check_files()?;

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
            Some(checkpoint) => opened.weights_of(checkpoint)?,
            None => opened.weights()?,
        };
        let mut optimizer = StatefulOptimizer::new(optimizer, &parameters, &settings.optimizer);
        if let Some(checkpoint) = &resumed {
            start::restore(&mut optimizer, &parameters, checkpoint)?;
            start::compare(checkpoint, &components, &processor);
        }

        // Everything that this rank can check alone is checked before the others have to wait for it.
        let peers = connect::connect(job, &*backend)?;
        let start = resumed.as_ref().map_or_else(Start::default, |checkpoint| Start::of(&checkpoint.state));
        let start = RankManifest::new(job, data, &processor, start)?.agree(&peers)?;
        let evaluations = evaluate::resume(&start.progress, settings, held_out.as_ref())?;
        if start.resumed {
            share::share_state(&peers, &mut parameters, &mut optimizer)?;
        }
        parameters.with_arrays(|arrays| {
            agree::require_same_bits(&peers, "the weights that training begins with", arrays.iter().map(|a| a.data))
        })?;
        parameters.with_frozen_arrays(|arrays| {
            agree::require_same_bits(&peers, "the weights that are not trained", arrays.iter().map(|a| a.data))
        })?;
        let metrics = match &store {
            Some(store) => {
                let metrics = start::open_metrics(store, &settings.output_dir, resumed.as_ref())?;
                store.finish_save(start.update, evaluations.best_kept())?;
                Some(metrics)
            }
            None => None,
        };
        let done = start.update;
        let progress = Progress::new(plan.total_updates(), done);
        let OpenedModel { compute, directory, model, trainer, .. } = opened;
        let objective = Objective { compute, model, trainer };
        Ok(Self {
            job,
            processor,
            peers,
            model: directory,
            learner: Learner::new(settings, plan.total_updates(), parameters, objective, optimizer),
            rows: Rows { train: dataset, held_out, fingerprint, plan },
            output: Output {
                store,
                metrics,
                plugin_metrics: PluginMetrics::default(),
                progress,
                saved: start.resumed.then_some(done),
            },
            evaluations,
            done,
        })
    }
}
