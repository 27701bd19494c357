//! The loop: update after update, with evaluations and checkpoints between them.

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::best::Evaluations;
use super::builds::Builds;
use super::checkpointing::Unfinished;
use super::estimate::Estimate;
use super::observe;
use super::plugin_metrics::PluginMetrics;
use super::prefetch::{self, UpdateEnd};
use super::slow_rank::SlowRank;
use super::stop::Stop;
use super::update::Learner;
use crate::checkpoint::{Changed, Store};
use crate::config::Settings;
use crate::counted::counted;
use crate::data::{self, BadRows, Cursor, Dataset, Encoder, LongRows, Notes, Plan, RowLocation};
use crate::exit::Failure;
use crate::export::Types;
use crate::job::Job;
use crate::metrics::{self, Metrics};
use crate::model::Directory;
use crate::observers::Observers;
use crate::peers::Peers;
use crate::progress::{self, Progress};
use crate::tokenizer_files::TokenizerFiles;
use crate::training_format::RowForm;

/// A training run, between two updates. Compute thread only.
pub struct Run<'a> {
    pub(super) job: &'a Job,
    /// The builds of the components.
    pub(super) builds: Builds,
    /// What computes, as far as bits depend on it.
    pub(super) processor: String,
    /// Whether the comm plugin adds by the pairwise tree.
    pub(super) by_the_tree: bool,
    /// How the configuration changed between the runs of the job, on the first rank.
    pub(super) history: Vec<Changed>,
    pub(super) peers: Peers,
    /// The directory of the model that training begins with.
    pub(super) model: Directory,
    /// The files of its tokenizer.
    pub(super) tokenizer_files: TokenizerFiles,
    /// The forms of its rows.
    pub(super) row_forms: Vec<RowForm>,
    /// What the prompts of its rows are, in words.
    pub(super) prompts: Option<String>,
    /// The types that the trained model is written in.
    pub(super) types: Types,
    pub(super) learner: Learner,
    /// Checksum of the weights that are not trained; empty where all are.
    pub(super) frozen: String,
    pub(super) rows: Rows,
    pub(super) output: Output,
    /// The memory that it was expected to need.
    pub(super) estimate: Estimate,
    /// The evaluations so far.
    pub(super) evaluations: Evaluations,
    /// Updates that are done.
    pub(super) done: u64,
}

/// The rows of a run.
pub(super) struct Rows {
    /// What the run trains on, until it begins to.
    pub(super) train: Option<prefetch::Source>,
    /// It in words.
    pub(super) summary: String,
    /// The names of its sources.
    pub(super) sources: Vec<String>,
    /// Where the next update's rows begin, where they stream.
    pub(super) cursor: Option<Cursor>,
    /// How many rows of this rank had nothing to train, of those that stream.
    pub(super) dropped: usize,
    /// How many of them were too long.
    pub(super) long: LongRows,
    /// What the trainer said of those that were read while training went on.
    pub(super) notes: Notes,
    /// Those that cannot be used and are passed over.
    pub(super) bad: BadRows,
    pub(super) held_out: Option<Dataset>,
    /// Fingerprint of the rows that are trained.
    pub(super) fingerprint: String,
    pub(super) plan: Plan,
}

/// What a run writes and shows.
pub(super) struct Output {
    /// Checkpoints, which only the first rank writes.
    pub(super) store: Option<Store>,
    /// metrics.jsonl, which only the first rank writes.
    pub(super) metrics: Option<Metrics>,
    pub(super) plugin_metrics: PluginMetrics,
    pub(super) slow_rank: SlowRank,
    pub(super) progress: Progress,
    pub(super) observers: Observers,
    /// The update of the last checkpoint of this run, written or resumed from.
    pub(super) saved: Option<u64>,
    /// The checkpoint that is perhaps not on the disk yet.
    pub(super) unfinished: Option<Unfinished>,
}

/// Trains, with `force` also where memory seems to be too small. Call it on the thread that is to be the compute thread.
///
/// # Errors
/// Anything that is wrong with the job, before anything is spent; then what goes wrong while it runs. An interruption
/// is [`Status::Interrupted`], after a checkpoint was written.
pub fn train(job: &Job, force: bool, cancelled: &AtomicBool) -> Result<(), Failure> {
    let observers = Observers::start(job.observers()?)?;
    let mut run = Run::open(job, force)?;
    run.output.observers = observers;
    let outcome = run.finish(cancelled).map_err(|stop| {
        // Where all stop together, none aborts the others: one that is first must not end another that still saves.
        if let Stop::Alone(failure) = &stop {
            run.peers.abort(failure.message());
        }
        stop.into_failure()
    });
    run.output.finish_alone();
    run.output.observers.finish(observe::end(&outcome), cancelled);
    outcome
}

impl<'a> Run<'a> {
    /// Makes the updates that remain.
    fn finish(&mut self, cancelled: &AtomicBool) -> Result<(), Stop> {
        self.tell_start()?;
        self.repeat_interrupted_evaluation()?;
        if self.is_finished() {
            progress::note(&self.why_finished());
            return Ok(self.export()?);
        }
        self.announce()?;
        let rank = self.peers.rank();
        let train = self.rows.train.take().ok_or_else(Failure::internal)?;
        let objective = &self.learner.objective;
        let encoder = Encoder::new(self.job, &objective.trainer, Some(objective.model.spec()));
        let on_bad_row = self.settings().data.on_bad_row;
        let trainer = &objective.trainer;
        let mut batches = prefetch::start(&self.rows.plan, rank, self.done + 1, train, trainer, encoder, on_bad_row)?;
        let sources = self.rows.sources.clone();
        let name_rows = |rows: &[RowLocation]| data::describe(&sources, rows);
        self.evaluate_at_start()?;
        while !self.is_finished() {
            let begin = Instant::now();
            let update = self.done + 1;
            let micro_batches = std::iter::from_fn(|| batches.next(cancelled));
            let outcome = self.learner.update(update, &self.peers, micro_batches, &name_rows, cancelled)?;
            let Some(numbers) = outcome else { return Err(self.interrupted()) };
            self.output.look_at_disk()?;
            self.done = update;
            self.output.tell_sample(&self.learner.objective, update, false);
            self.take_end(batches.take_end(), &name_rows)?;
            self.report(numbers, begin.elapsed())?;
            if self.evaluation_due() {
                self.evaluate()?;
            }
            if self.is_finished() || self.save_due() {
                self.save()?;
            }
        }
        self.finish_saving()?;
        self.output.progress.finish();
        if self.rows.dropped > 0 {
            let rows = counted(self.rows.dropped, "row");
            progress::note(&format!("data     {rows} dropped with nothing to train"));
        }
        self.rows.bad.summary().into_iter().for_each(|bad| progress::note(&format!("data     {bad}")));
        let first = |rows: &[RowLocation]| format!("first {}", name_rows(&rows[..1]));
        self.rows.notes.lines(&name_rows).iter().for_each(|note| progress::note(&format!("note     {note}")));
        self.rows.long.parts(&first).iter().for_each(|part| progress::note(&format!("data     {part}")));
        self.export()?;
        if let Some(bytes) = metrics::peak_memory_bytes() {
            progress::debug(&format!("peak memory: {bytes} bytes"));
        }
        Ok(())
    }

    /// Takes note of what was read for an update.
    fn take_end(&mut self, end: UpdateEnd, name_rows: &dyn Fn(&[RowLocation]) -> String) -> Result<(), Failure> {
        let UpdateEnd { cursor, dropped, long, notes, bad } = end;
        self.rows.bad.add(&self.rows.sources, &bad)?.iter().for_each(|line| self.output.progress.note(line));
        self.rows.cursor = cursor;
        if self.rows.dropped == 0 && !dropped.is_empty() {
            let rows = name_rows(&dropped);
            self.output.progress.note(&format!("warning: rows are dropped with nothing to train, first {rows}"));
        }
        self.rows.dropped += dropped.len();
        self.rows.long.add(long);
        for (note, _, row) in self.rows.notes.add(notes).iter() {
            self.output.progress.note(&format!("note     from {} on: {note}", name_rows(&[row])));
        }
        Ok(())
    }

    pub(super) fn settings(&self) -> &'a Settings {
        &self.job.resolved.settings
    }
}
