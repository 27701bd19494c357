//! Opens a run: loads, reads and checks everything that the job needs, in the order of the exit statuses.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use super::agree::{self, RankManifest, Start};
use super::frozen::Frozen;
use super::gradient::Objective;
use super::layout::GradientLayout;
use super::optimizer::{OptimizerPlan, StatefulOptimizer};
use super::plugin_metrics::PluginMetrics;
use super::prefetch::Source;
use super::run::{Output, Rows};
use super::slow_rank::SlowRank;
use super::update::Learner;
use super::{Run, builds, connect, estimate, evaluate, processor, share, start};
use crate::checkpoint::Store;
use crate::data::{self, BadRows, Data, Encoder, LongRows, Notes, Plan, Training};
use crate::exit::Failure;
use crate::export::Types;
use crate::job::Job;
use crate::model;
use crate::observers::Observers;
use crate::progress::{self, Progress};
use crate::storage;
use crate::training_format::{self, RowForm, TrainingFormat};

impl<'a> Run<'a> {
    /// Opens a job, at its beginning or at the checkpoint that it resumes from. With `force`, also one that seems not to fit into
    /// memory.
    ///
    /// # Errors
    /// The first thing that is wrong: plugins, then model and data, then the output directory and its checkpoints.
    pub fn open(job: &'a Job, force: bool) -> Result<Self, Failure> {
        job.resolved.require_job()?;
        let settings = &job.resolved.settings;
        let components = job.component_names()?;
        let compute = job.compute()?;
        let builds = builds::of(job)?;
        let device = compute.device();
        let processor = processor::describe(&device, job.precision()?.operands);
        if let Some(note) = job.precision()?.note(&*compute).filter(|_| settings.comm.rank == 0) {
            progress::note(&note);
        }
        let optimizer = job.optimizer()?;
        let backend = connect::backend(job)?;

        let opened = job.open_model(compute)?;
        let optimizer = OptimizerPlan::new(optimizer, &settings.optimizer, &model::trained(&opened.parameters()))?;
        // Which part of a sum a rank is given does not decide which states it has.
        let layout = GradientLayout::of(&optimizer, &settings.comm, false)?;
        let tokenizer_files = opened.tokenizer_files()?;
        let encoder = Encoder::new(job, &opened.trainer, Some(opened.model.spec()));
        let read = data::read(job, &encoder, &tokenizer_files.checksum()?)?;
        let format = TrainingFormat::of_job(job, RowForm::of_job(job));
        let prompts = format.announced(opened.tokenizer.vocabulary().renders_messages);
        let plan = Plan::of(settings, read.rows);
        opened.check_files()?;
        let estimate = estimate::admit(job, &opened, estimate::Work::Training(&read), force)?;
        let Data { train, held_out, fingerprint, .. } = read;
        let mut data = BTreeMap::from([("the training data".to_owned(), json!(fingerprint))]);
        data.extend(held_out.as_ref().map(|rows| ("the held-out data".to_owned(), json!(rows.fingerprint()))));
        let types = Types::of(settings, &opened.model.spec().parameters, &opened.directory)?;

        // The first rank alone touches the output directory, which others may share or not see.
        let store = match settings.comm.rank {
            0 => {
                storage::check_output_dir(&settings.output_dir)?;
                Some(Store::new(&settings.output_dir, settings.checkpoint.keep)?)
            }
            _ => None,
        };
        let by_the_tree = backend.capabilities()?.deterministic;
        let resumed = match &store {
            Some(store) => start::find_checkpoint(job, store, &plan, &fingerprint, by_the_tree)?,
            None => None,
        };
        start::require_same_adapter(opened.adapter.as_ref(), resumed.as_ref())?;
        let mut parameters = match &resumed {
            Some(checkpoint) => opened.weights_of(checkpoint)?,
            None => opened.weights()?,
        };
        let frozen_weights = start::frozen(&parameters, opened.directory.path(), resumed.as_ref())?;
        let updates = plan.total_updates();
        let mut optimizer = StatefulOptimizer::new(optimizer, &parameters, &settings.scheduler, updates, &layout)?;
        if let Some(checkpoint) = &resumed {
            optimizer.restore(checkpoint)?;
            start::compare(checkpoint, &components, &builds, &processor);
        }

        let frozen = Frozen::load(job, &opened, &parameters)?;

        // Everything that this rank can check alone is checked before the others have to wait for it.
        let peers = connect::connect(job, &*backend, Some(&device))?;
        let start = resumed.as_ref().map_or_else(Start::default, |checkpoint| Start::of(&checkpoint.state));
        let start = RankManifest::new(job, data, builds.clone(), &processor, start).agree(&peers)?;
        let evaluations = evaluate::resume(&start.progress, settings, held_out.as_ref())?;
        let (summary, sources, cursor, train) = match train {
            Training::Whole(dataset) => {
                (dataset.summary(), dataset.sources().to_vec(), None, Source::Whole(Arc::from(dataset)))
            }
            Training::OnDemand(rows) => (rows.summary(), rows.sources().to_vec(), None, Source::OnDemand(rows)),
            Training::Streamed(streamed) => {
                let (summary, sources) = (streamed.summary(), streamed.sources().to_vec());
                let cursor = start::cursor(&start)?;
                (summary, sources, Some(cursor.clone()), Source::Streamed(streamed.start(cursor)?))
            }
        };
        if start.resumed {
            share::share_state(&peers, &mut parameters, &mut optimizer, resumed.as_ref())?;
        }
        parameters.with_arrays(|arrays| {
            agree::require_same_bits(&peers, "the weights that training begins with", arrays.iter().map(|a| a.data))
        })?;
        parameters.with_frozen_bytes(|arrays| {
            agree::require_same_bytes(&peers, "the weights that are not trained", arrays.iter().copied())
        })?;
        agree::require_same_quantised(&peers, "the quantised weights", &parameters)?;
        frozen.require_same_bits(&peers)?;
        let history = resumed.as_ref().map_or_else(Vec::new, |checkpoint| checkpoint.state.history.clone());
        let metrics = match &store {
            Some(store) => {
                let metrics = start::open_metrics(store, &settings.output_dir, resumed.as_ref())?;
                store.finish_save(start.update, evaluations.best_kept())?;
                Some(metrics)
            }
            None => None,
        };
        let mut bad = BadRows::open(store.as_ref().map(|_| settings.output_dir.as_path()), start.resumed)?;
        if store.is_some() {
            // Where rows are known before training, all ranks know them.
            let held_out = held_out.as_ref().map(|rows| (rows.sources(), rows.bad()));
            for (sources, rows) in [(sources.as_slice(), train.bad())].into_iter().chain(held_out) {
                bad.add(sources, rows)?.iter().for_each(|line| progress::note(line));
            }
        }
        let done = start.update;
        let progress = Progress::new(plan.total_updates(), done);
        let directory = opened.directory.clone();
        let objective = Objective::new(job, opened, frozen);
        let layout = layout.scattered(peers.scatters());
        Ok(Self {
            job,
            builds,
            processor,
            by_the_tree,
            history,
            peers,
            model: directory,
            tokenizer_files: tokenizer_files.with(training_format::FILE, format.text()),
            row_forms: format.rows().to_vec(),
            prompts,
            types,
            learner: Learner::new(settings, updates, estimate.recompute, parameters, objective, optimizer, layout),
            frozen: frozen_weights,
            rows: Rows {
                train: Some(train),
                summary,
                sources,
                cursor,
                dropped: 0,
                long: LongRows::default(),
                notes: Notes::default(),
                bad,
                held_out,
                fingerprint,
                plan,
            },
            output: Output {
                store,
                metrics,
                plugin_metrics: PluginMetrics::default(),
                slow_rank: SlowRank::default(),
                progress,
                observers: Observers::default(),
                saved: start.resumed.then_some(done),
                unfinished: None,
            },
            evaluations,
            estimate,
            done,
        })
    }
}
