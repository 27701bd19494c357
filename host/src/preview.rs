//! A preview of the data: how rows are rendered, tokenized and masked, and the totals of all rows.
//!
//! Only the data, tokenizer and trainer components are loaded, no device and no weights.

mod paint;
mod pieces;
mod totals;

pub use paint::Paint;
pub use pieces::Pieces;
pub use totals::Totals;

use mdt_plugin_api::register::TrainerComponent;
use mdt_plugin_api::{Item, Sequence};
use serde::Serialize;

use crate::data::{self, Dataset, Encoder, Examples, Plan};
use crate::exit::{Failure, Status};
use crate::job::Job;
use crate::tokenizer_files::TokenizerFiles;

/// Which rows to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The training rows.
    Train,
    /// The rows held out for evaluation.
    Eval,
}

/// One sequence of a row, as it is used in training.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Its source: the name of a file in the configuration.
    pub source: String,
    /// Its number in the source; in a JSON Lines file, the line.
    pub row: u64,
    /// The number of the packed row that it is in, from 1, where `trainer.packing` packs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packed_row: Option<usize>,
    /// The number of the sequence among those of its row, from 1, and how many these are: each answer has its own where the
    /// template shows answers otherwise once others follow, and so has each piece of a long row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<(usize, usize)>,
    /// The name of the sequence: `tokens` where the trainer makes one of a row.
    pub sequence: String,
    /// All of its text, special tokens included.
    pub text: String,
    /// Token ids.
    pub tokens: Vec<u32>,
    /// For each token, whether it is trained.
    pub supervised: Vec<bool>,
    /// For each token its part of the text. A character that several tokens make stands at the last of them.
    pub pieces: Vec<String>,
    /// Number of tokens that are trained.
    pub supervised_tokens: usize,
    /// Number of tokens that were cut off at `trainer.max_seq_len`.
    pub truncated: u64,
    /// What the trainer says of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A job's data, read and encoded.
pub struct Preview<'a> {
    job: &'a Job,
    part: Part,
    trainer: TrainerComponent,
    tokenizer_files: TokenizerFiles,
    pieces: Pieces,
}

impl<'a> Preview<'a> {
    /// Opens the tokenizer of a job.
    ///
    /// # Errors
    /// Missing configuration; plugins or a model's directory that cannot be used.
    pub fn open(job: &'a Job, part: Part) -> Result<Self, Failure> {
        job.resolved.require_job()?;
        let data = &job.resolved.settings.data;
        if part == Part::Eval && data.eval.is_empty() && data.eval_split.is_none() {
            return Err(Failure::configuration("there are no rows for evaluation")
                .help("set `data.eval` to a file of them, or `data.eval_split` to hold out training rows"));
        }
        let directory = job.model_directory()?;
        let tokenizer = job.tokenizer(&directory)?;
        let trainer = job.trainer(&directory, &tokenizer)?;
        let tokenizer_files = TokenizerFiles::of(directory.path(), &tokenizer)?;
        let pieces = Pieces::new(tokenizer);
        Ok(Self { job, part, trainer, tokenizer_files, pieces })
    }

    /// Reads and encodes all rows.
    ///
    /// # Errors
    /// The same as before training.
    ///
    /// Of rows that stream, only the first ones are read, and whether these are all is the second result.
    pub fn read(&self) -> Result<(Dataset, bool), Failure> {
        let encoder = Encoder::new(self.job, &self.trainer, None);
        let (train, held_out, whole) = data::preview(self.job, &encoder, &self.tokenizer_files.checksum()?)?;
        match self.part {
            Part::Train => Ok((train, whole)),
            Part::Eval => {
                let failure = || Failure::configuration("there are no rows for evaluation");
                held_out.map(|rows| (rows, true)).ok_or_else(failure)
            }
        }
    }

    /// The sequences of one row of a data set.
    pub fn row(&self, dataset: &Dataset, row: usize) -> Result<Vec<Row>, Failure> {
        let (source, number) = dataset.place(row);
        self.describe(source, number, (dataset.packed_row_of(row), dataset.part_of_row(row)), &dataset.rows()[row])
    }

    /// The row of this number in each source, even if nothing in it is trained. No other row is encoded.
    ///
    /// # Errors
    /// There is no such row, or it cannot be used.
    pub fn find(&self, number: u64) -> Result<Vec<Row>, Failure> {
        let data = &self.job.resolved.settings.data;
        let sources =
            if self.part == Part::Eval && !data.eval.is_empty() { data.eval.clone() } else { data.train_names() };
        let mut found = Vec::new();
        for name in &sources {
            let mut source = Examples::open(self.job, name)?;
            while let Some(example) = source.next()? {
                if example.row == number {
                    let at = |error| Failure::from(error).at(format!("{name} row {number}"));
                    let encoder = Encoder::new(self.job, &self.trainer, None);
                    let items = encoder.items(&example).map_err(at)?;
                    for (part, item) in (1..).zip(&items) {
                        let part = Some((part, items.len())).filter(|_| items.len() > 1);
                        found.extend(self.describe(name, number, (None, part), item)?);
                    }
                    break;
                }
            }
        }
        if found.is_empty() {
            return Err(Failure::new(Status::Configuration, format!("there is no row {number}")).at(sources.join(", ")));
        }
        Ok(found)
    }

    fn describe(
        &self,
        source: &str,
        row: u64,
        (packed_row, part): (Option<usize>, Option<(usize, usize)>),
        item: &Item,
    ) -> Result<Vec<Row>, Failure> {
        let describe = |sequence: &Sequence| {
            let pieces = self.pieces.of(&sequence.tokens)?;
            Ok(Row {
                source: source.to_owned(),
                row,
                packed_row,
                part,
                sequence: sequence.name.clone(),
                text: pieces.concat(),
                tokens: sequence.tokens.clone(),
                supervised: sequence.supervised.clone(),
                pieces,
                supervised_tokens: sequence.supervised_tokens(),
                truncated: sequence.truncated,
                notes: item.notes.clone(),
            })
        };
        item.sequences.iter().map(describe).collect()
    }

    /// The totals of a data set under the job's batch size, accumulation, world size and order.
    pub fn totals(&self, dataset: &Dataset) -> Totals {
        let settings = &self.job.resolved.settings;
        match self.part {
            Part::Train => Totals::of_training(dataset, &Plan::of(settings, Some(dataset.places()))),
            Part::Eval => Totals::of_evaluation(dataset, settings.trainer.batch_size as usize),
        }
    }
}

impl Row {
    /// The text in spans, each with whether it is trained.
    pub fn spans(&self) -> Vec<(bool, String)> {
        let mut spans: Vec<(bool, String)> = Vec::new();
        for (&trained, piece) in self.supervised.iter().zip(&self.pieces) {
            match spans.last_mut() {
                Some((last, text)) if *last == trained => text.push_str(piece),
                _ => spans.push((trained, piece.clone())),
            }
        }
        spans
    }
}
